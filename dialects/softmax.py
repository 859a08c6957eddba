"""zenith.softmax: y = exp(z - m) / Σ exp(z - m), z = scale x, m = max z; maximum and sum over the last axis.

Operand: x. Result: y, of the same shape. Attribute:

    scale  the factor of x

Arithmetic is float32 at least, and the result is rounded to its type once. A row that holds NaN or +inf, or -inf alone,
is NaN.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from zenith_mlir.dialects.flat_spec import FlatSpec

if TYPE_CHECKING:
    import jax

NAME = "zenith.softmax"


@dataclass(frozen=True)
class SoftmaxSpec(FlatSpec):
    """What the attributes of a zenith.softmax say."""

    OP: ClassVar[str] = NAME

    scale: float = 1.0

    def verify(self, shapes: Sequence[Sequence[int]], results: Sequence[Sequence[int]]) -> None:
        """Check that x and the result have one shape.

        Raises: ValueError naming what does not fit, the shape expected and the shape it has.
        """
        found = self.shapes_by_name(("x", "y"), [*shapes, *results])
        self.check_shapes(found, dict.fromkeys(found, found["x"]))


def reference(spec: SoftmaxSpec, x: jax.Array, dtype: Any = None) -> jax.Array:
    """The formula, plainly, in `dtype` (default: at least float32). The result has `dtype`, or else that of x."""
    import jax
    import jax.numpy as jnp

    compute = dtype or jnp.promote_types(x.dtype, jnp.float32)
    return jax.nn.softmax(x.astype(compute) * spec.scale, axis=-1).astype(dtype or x.dtype)
