"""zenith.swiglu_vjp: the gradients of zenith.swiglu.

Operands: those of the swiglu in its order, then the cotangent g of its result. Results: d_gate and d_up, or where
gate and up are halves of one operand the one gradient of that, in its order:

    d_gate = g ∘ (up + b') ∘ act'(gate + b)        d_up = g ∘ act(gate + b)

The gradient of a bias is the sum of its operand's over all axes but the last. Attributes: those of the swiglu.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from zenith_mlir.dialects import swiglu
from zenith_mlir.dialects.swiglu import SwigluSpec

if TYPE_CHECKING:
    import jax

NAME = "zenith.swiglu_vjp"


def reference(spec: SwigluSpec, *operands: jax.Array, dtype: Any = None) -> tuple[jax.Array, ...]:
    """The derivative of the formula, in `dtype` (default: at least float32, rounded to the operands' dtypes)."""
    import jax
    import jax.numpy as jnp

    compute = dtype or jnp.promote_types(operands[0].dtype, jnp.float32)
    *primals, cotangent = (operand.astype(compute) for operand in operands)
    count = 2 if spec.halves == "none" else 1
    biases = primals[count:]
    _, pullback = jax.vjp(lambda *x: swiglu.reference(spec, *x, *biases, dtype=compute), *primals[:count])
    gradients = pullback(cotangent)
    return tuple(g.astype(dtype or x.dtype) for g, x in zip(gradients, operands, strict=False))
