"""zenith.silu: out = (x + b) σ(slope (x + b)) with σ(y) = 1 / (1 + e^-y).

Operands: x [..., f]; with `bias` a bias b [f]. One result, of the shape of x. Attributes:

    slope    1 for SiLU, also named swish; 1.702 is the "quick" GELU
    bias     there is a bias
    escapes  values inside have other users, so a kernel would compute them a second time; false if it is missing

(Ramachandran et al. 2017, Searching for activation functions.)
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

NAME = "zenith.silu"


@dataclass(frozen=True)
class SiluSpec:
    """What the attributes of a zenith.silu say."""

    slope: float = 1.0
    bias: bool = False
    escapes: bool = False

    @property
    def activation(self) -> str:
        """The name in `activations.ACTIVATIONS`."""
        return "silu"

    def to_attributes(self) -> dict[str, ir.Attribute]:
        """As attributes of a stablehlo.composite, in the current MLIR context."""
        from zenith_mlir.dialects.attributes import to_attribute

        return {name: to_attribute(getattr(self, name)) for name in ("slope", "bias", "escapes")}

    @classmethod
    def from_attributes(cls, attributes: Mapping[str, Any]) -> SiluSpec:
        """Read what `to_attributes` wrote, already turned into Python values."""
        return cls(
            slope=field(NAME, attributes, "slope", float),
            bias=field(NAME, attributes, "bias", bool),
            escapes=bool(attributes.get("escapes", False)),
        )


def reference(spec: SiluSpec, x: jax.Array, *bias: jax.Array, dtype: Any = None) -> jax.Array:
    """The formula, plainly, in `dtype` (default: at least float32, rounded to the dtype of x)."""
    import jax.numpy as jnp

    compute = dtype or jnp.promote_types(x.dtype, jnp.float32)
    total = sum((b.astype(compute) for b in bias), x.astype(compute))
    return apply(spec.activation, spec.slope, total).astype(dtype or x.dtype)
