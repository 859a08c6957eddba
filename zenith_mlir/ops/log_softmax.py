"""`log_softmax`, the op zenith.log_softmax."""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from zenith_mlir.dialects import log_softmax as dialect
from zenith_mlir.dialects import log_softmax_vjp as dialect_vjp
from zenith_mlir.dialects.log_softmax import LogSoftmaxSpec
from zenith_mlir.dialects.log_softmax_vjp import LogSoftmaxVjpSpec
from zenith_mlir.ops.row_softmax import along, define_softmax

log_softmax_p = define_softmax(LogSoftmaxSpec, dialect.reference, LogSoftmaxVjpSpec, dialect_vjp.reference)


def log_softmax(
    x: ArrayLike, axis: int | Sequence[int] = -1, where: ArrayLike | None = None, *, scale: float = 1.0
) -> jax.Array:
    r"""The logarithm of the softmax of scale · x.

    .. math:: y_i = scale \cdot x_i - \log \sum_j \exp(scale \cdot x_j)

    Arithmetic is float32 at least, and the result is rounded to the dtype of x once.

    Args:
      x: floating-point array.
      axis: the axis, or axes, of the sum.
      where: booleans that broadcast with x, of the elements that count; the others are -inf in the result.
      scale: factor of x.

    Returns: an array of the shape and dtype of x.

    Raises:
      TypeError: if x is not of floating-point numbers, or where not of booleans.
      ValueError: if x has no such axis or where does not broadcast with it.
    """
    return along(log_softmax_p, "log_softmax", LogSoftmaxSpec(scale=float(scale)), x, axis, where, masked=-jnp.inf)
