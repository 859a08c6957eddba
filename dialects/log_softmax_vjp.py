"""zenith.log_softmax_vjp: the gradient of zenith.log_softmax, dx = scale (dy - exp(y) Σ dy), sums over the last axis.

Operands: y, which the forward returned, and its cotangent dy. Result: dx, of the same shape. Attribute:

    scale  that of the forward

Arithmetic is float32 at least, and the result is rounded to its type once.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from zenith_mlir.dialects.softmax_vjp import SoftmaxVjpSpec

if TYPE_CHECKING:
    import jax

NAME = "zenith.log_softmax_vjp"


@dataclass(frozen=True)
class LogSoftmaxVjpSpec(SoftmaxVjpSpec):
    """What the attributes of a zenith.log_softmax_vjp say."""

    OP: ClassVar[str] = NAME


def reference(spec: LogSoftmaxVjpSpec, y: jax.Array, cotangent: jax.Array, dtype: Any = None) -> jax.Array:
    """The formula, plainly, in `dtype` (default: at least float32). The result has `dtype`, or else that of y."""
    import jax.numpy as jnp

    compute = dtype or jnp.promote_types(y.dtype, jnp.float32)
    wide, dy = y.astype(compute), cotangent.astype(compute)
    dx = spec.scale * (dy - jnp.exp(wide) * dy.sum(-1, keepdims=True))
    return dx.astype(dtype or y.dtype)
