"""zenith.log_softmax: y = z - m - log Σ exp(z - m), z = scale x, m = max z; maximum and sum over the last axis.

Operand: x. Result: y, of the same shape. Attribute:

    scale  the factor of x

Arithmetic is float32 at least, and the result is rounded to its type once. A row that holds NaN or +inf, or -inf alone,
is NaN.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from zenith_mlir.dialects.softmax import SoftmaxSpec

if TYPE_CHECKING:
    import jax

NAME = "zenith.log_softmax"


@dataclass(frozen=True)
class LogSoftmaxSpec(SoftmaxSpec):
    """What the attributes of a zenith.log_softmax say."""

    OP: ClassVar[str] = NAME


def reference(spec: LogSoftmaxSpec, x: jax.Array, dtype: Any = None) -> jax.Array:
    """The formula, plainly, in `dtype` (default: at least float32). The result has `dtype`, or else that of x."""
    import jax
    import jax.numpy as jnp

    compute = dtype or jnp.promote_types(x.dtype, jnp.float32)
    return jax.nn.log_softmax(x.astype(compute) * spec.scale, axis=-1).astype(dtype or x.dtype)
