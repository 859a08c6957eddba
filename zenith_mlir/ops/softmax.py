"""`softmax`, the op zenith.softmax."""

from __future__ import annotations

from collections.abc import Sequence

import jax
from jax.typing import ArrayLike

from zenith_mlir.dialects import softmax as dialect
from zenith_mlir.dialects import softmax_vjp as dialect_vjp
from zenith_mlir.dialects.softmax import SoftmaxSpec
from zenith_mlir.dialects.softmax_vjp import SoftmaxVjpSpec
from zenith_mlir.ops.row_softmax import along, define_softmax

softmax_p = define_softmax(SoftmaxSpec, dialect.reference, SoftmaxVjpSpec, dialect_vjp.reference)


def softmax(
    x: ArrayLike, axis: int | Sequence[int] = -1, where: ArrayLike | None = None, *, scale: float = 1.0
) -> jax.Array:
    r"""Softmax of scale · x.

    .. math:: y_i = \frac{\exp(scale \cdot x_i)}{\sum_j \exp(scale \cdot x_j)}

    Arithmetic is float32 at least, and the result is rounded to the dtype of x once.

    Args:
      x: floating-point array.
      axis: the axis, or axes, of the sum.
      where: booleans that broadcast with x, of the elements that count; the others are 0 in the result.
      scale: factor of x.

    Returns: an array of the shape and dtype of x.

    Raises:
      TypeError: if x is not of floating-point numbers, or where not of booleans.
      ValueError: if x has no such axis or where does not broadcast with it.
    """
    return along(softmax_p, "softmax", SoftmaxSpec(scale=float(scale)), x, axis, where, masked=0.0)
