"""zenith.rotary_vjp: the gradient of zenith.rotary for x.

Operands: the cotangent g of the rotary's result, cos, sin. One result, laid out as x:

    dx[a] = g[a] cos[a] + g[b] sin[b]        dx[b] = g[b] cos[b] - g[a] sin[a]

the transposed rotation, which turns back where the tables hold one angle a pair. Attributes: those of the rotary; g is
laid out as its result.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from zenith_mlir.dialects import rotary
from zenith_mlir.dialects.rotary import RotarySpec

if TYPE_CHECKING:
    import jax

NAME = "zenith.rotary_vjp"


def reference(spec: RotarySpec, g: jax.Array, cos: jax.Array, sin: jax.Array, *, dtype: Any = None) -> jax.Array:
    """The formula, in `dtype` (default: at least float32, rounded to the dtype of g)."""
    import jax
    import jax.numpy as jnp

    compute = dtype or jnp.promote_types(g.dtype, jnp.float32)
    cotangent = g.astype(compute)
    x = jax.ShapeDtypeStruct(spec.x.shape(spec.axes), compute)
    transposed = jax.linear_transpose(lambda x: rotary.reference(spec, x, cos, sin, dtype=compute), x)
    (dx,) = transposed(cotangent)
    result: jax.Array = dx.astype(dtype or g.dtype)
    return result
