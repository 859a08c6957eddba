"""`gelu`, the op zenith.gelu."""

from __future__ import annotations

import jax
from jax.typing import ArrayLike

from zenith_mlir.dialects import gelu as dialect
from zenith_mlir.dialects import gelu_vjp as dialect_vjp
from zenith_mlir.dialects.gelu import GeluSpec
from zenith_mlir.ops.activation import activate, define_activation

gelu_p = define_activation(dialect.NAME, dialect.reference, dialect_vjp.reference)


def gelu(x: ArrayLike, approximate: bool = True, *, bias: ArrayLike | None = None) -> jax.Array:
    r"""Gaussian error linear unit of x + bias.

    .. math::
      y \Phi(y) = \frac{y}{2} \left(1 + \mathrm{erf}\frac{y}{\sqrt 2}\right) \quad\text{or, approximately,}\quad
      \frac{y}{2} \left(1 + \tanh\left(\sqrt{2 / \pi}\, (y + 0.044715 y^3)\right)\right)

    Arithmetic is float32 at least, and the result is rounded to the dtype of x once.

    Args:
      x: floating-point array.
      approximate: the form with tanh, as `jax.nn.gelu` has it by default.
      bias: added first, one number for each element of the last axis of x.

    Returns: an array of the shape and dtype of x.

    Raises:
      TypeError: if an argument is not of floating-point numbers.
      ValueError: if the bias does not fit.
    """
    name = "tanh" if approximate else "none"
    return activate(gelu_p, "gelu", lambda has_bias: GeluSpec(approximate=name, bias=has_bias), x, bias)
