"""`silu`, the op zenith.silu."""

from __future__ import annotations

import jax
from jax.typing import ArrayLike

from zenith_mlir.dialects import silu as dialect
from zenith_mlir.dialects import silu_vjp as dialect_vjp
from zenith_mlir.dialects.silu import SiluSpec
from zenith_mlir.ops.activation import activate, define_activation

silu_p = define_activation(dialect.NAME, dialect.reference, dialect_vjp.reference)


def silu(x: ArrayLike, *, bias: ArrayLike | None = None, slope: float = 1.0) -> jax.Array:
    r"""Sigmoid linear unit, also named swish, of y = x + bias.

    .. math:: y\, \sigma(slope \cdot y) = \frac{y}{1 + \exp(-slope \cdot y)}

    Arithmetic is float32 at least, and the result is rounded to the dtype of x once.

    Args:
      x: floating-point array.
      bias: added first, one number for each element of the last axis of x.
      slope: 1.702 makes the "quick" GELU.

    Returns: an array of the shape and dtype of x.

    Raises:
      TypeError: if an argument is not of floating-point numbers.
      ValueError: if the bias does not fit.
    """
    return activate(silu_p, "silu", lambda has_bias: SiluSpec(slope=float(slope), bias=has_bias), x, bias)
