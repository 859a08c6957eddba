"""zenith.silu_vjp: the gradient of zenith.silu.

Operands: those of the silu in its order, then the cotangent g of its result. One result,
dx = g ∘ silu'(x + bias), of the shape of x; the gradient of a bias is its sum over all axes but the last.

Attributes: those of the silu.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from zenith_mlir.dialects import silu
from zenith_mlir.dialects.silu import SiluSpec

if TYPE_CHECKING:
    import jax

NAME = "zenith.silu_vjp"


def reference(spec: SiluSpec, x: jax.Array, *rest: jax.Array, dtype: Any = None) -> jax.Array:
    """The derivative of the formula, in `dtype` (default: at least float32, rounded to the dtype of x)."""
    import jax
    import jax.numpy as jnp

    *bias, cotangent = rest
    compute = dtype or jnp.promote_types(x.dtype, jnp.float32)
    _, pullback = jax.vjp(lambda wide: silu.reference(spec, wide, *bias, dtype=compute), x.astype(compute))
    (dx,) = pullback(cotangent.astype(compute))
    result: jax.Array = dx.astype(dtype or x.dtype)
    return result
