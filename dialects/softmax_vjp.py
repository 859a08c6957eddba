"""zenith.softmax_vjp: the gradient of zenith.softmax, dx = scale y (dy - Σ y dy), sums over the last axis.

Operands: y, which the forward returned, and its cotangent dy. Result: dx, of the same shape. Attribute:

    scale  that of the forward

Arithmetic is float32 at least, and the result is rounded to its type once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from zenith_mlir.dialects.flat_spec import FlatSpec

if TYPE_CHECKING:
    import jax

NAME = "zenith.softmax_vjp"


@dataclass(frozen=True)
class SoftmaxVjpSpec(FlatSpec):
    """What the attributes of a zenith.softmax_vjp say."""

    OP: ClassVar[str] = NAME

    scale: float = 1.0

    def verify(self, shapes: Sequence[Sequence[int]], results: Sequence[Sequence[int]]) -> None:
        """Check that y, its cotangent and the result have one shape.

        Raises: ValueError naming what does not fit, the shape expected and the shape it has.
        """
        found = self.shapes_by_name(("y", "cotangent", "dx"), [*shapes, *results])
        self.check_shapes(found, dict.fromkeys(found, found["y"]))


def reference(spec: SoftmaxVjpSpec, y: jax.Array, cotangent: jax.Array, dtype: Any = None) -> jax.Array:
    """The formula, plainly, in `dtype` (default: at least float32). The result has `dtype`, or else that of y."""
    import jax.numpy as jnp

    compute = dtype or jnp.promote_types(y.dtype, jnp.float32)
    wide, dy = y.astype(compute), cotangent.astype(compute)
    dx = spec.scale * wide * (dy - (wide * dy).sum(-1, keepdims=True))
    return dx.astype(dtype or y.dtype)
