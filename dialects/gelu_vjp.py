"""zenith.gelu_vjp: the gradient of zenith.gelu.

Operands: those of the gelu in its order, then the cotangent g of its result. One result,
dx = g ∘ gelu'(x + bias), of the shape of x; the gradient of a bias is its sum over all axes but the last.

Attributes: those of the gelu.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from zenith_mlir.dialects import gelu
from zenith_mlir.dialects.gelu import GeluSpec

if TYPE_CHECKING:
    import jax

NAME = "zenith.gelu_vjp"


def reference(spec: GeluSpec, x: jax.Array, *rest: jax.Array, dtype: Any = None) -> jax.Array:
    """The derivative of the formula, in `dtype` (default: at least float32, rounded to the dtype of x)."""
    import jax
    import jax.numpy as jnp

    *bias, cotangent = rest
    compute = dtype or jnp.promote_types(x.dtype, jnp.float32)
    _, pullback = jax.vjp(lambda wide: gelu.reference(spec, wide, *bias, dtype=compute), x.astype(compute))
    (dx,) = pullback(cotangent.astype(compute))
    result: jax.Array = dx.astype(dtype or x.dtype)
    return result
