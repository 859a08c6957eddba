"""zenith.gelu: out = gelu(x + bias).

Operands: x [..., f]; with `bias` a bias [f]. One result, of the shape of x. Attributes:

    approximate  "none": x Φ(x) with Φ(x) = (1 + erf(x / √2)) / 2;
                 "tanh": x (1 + tanh(√(2/π) (x + 0.044715 x³))) / 2
    bias         there is a bias
    escapes      values inside have other users, so a kernel would compute them a second time; false if it is missing

(Hendrycks and Gimpel 2016, Gaussian error linear units.)
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from zenith_mlir.dialects.activations import apply
from zenith_mlir.dialects.fields import field

if TYPE_CHECKING:
    import jax
    from jaxlib.mlir import ir

NAME = "zenith.gelu"


@dataclass(frozen=True)
class GeluSpec:
    """What the attributes of a zenith.gelu say."""

    approximate: str = "none"
    bias: bool = False
    escapes: bool = False

    @property
    def activation(self) -> str:
        """The name in `activations.ACTIVATIONS`."""
        return "gelu" if self.approximate == "none" else "gelu_tanh"

    @property
    def slope(self) -> float:
        return 1.0

    def to_attributes(self) -> dict[str, ir.Attribute]:
        """As attributes of a stablehlo.composite, in the current MLIR context."""
        from zenith_mlir.dialects.attributes import to_attribute

        return {name: to_attribute(getattr(self, name)) for name in ("approximate", "bias", "escapes")}

    @classmethod
    def from_attributes(cls, attributes: Mapping[str, Any]) -> GeluSpec:
        """Read what `to_attributes` wrote, already turned into Python values."""
        return cls(
            approximate=field(NAME, attributes, "approximate", str, ("none", "tanh")),
            bias=field(NAME, attributes, "bias", bool),
            escapes=bool(attributes.get("escapes", False)),
        )


def reference(spec: GeluSpec, x: jax.Array, *bias: jax.Array, dtype: Any = None) -> jax.Array:
    """The formula, plainly, in `dtype` (default: at least float32, rounded to the dtype of x)."""
    import jax.numpy as jnp

    compute = dtype or jnp.promote_types(x.dtype, jnp.float32)
    total = sum((b.astype(compute) for b in bias), x.astype(compute))
    return apply(spec.activation, spec.slope, total).astype(dtype or x.dtype)
