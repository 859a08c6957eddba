"""zenith.swiglu: out = act(gate + b) ∘ (up + b').

act is SiLU for SwiGLU, GELU for GeGLU, ... (Shazeer 2020, GLU variants improve transformer). Attributes:

    activation  act, a name of activations.ACTIVATIONS: "silu", "gelu", "gelu_tanh", "sigmoid", "relu"
    slope       the factor of "silu" and "sigmoid"; 1 where it means nothing
    halves      "none": the operands are gate [..., f] and up [..., f], then with `bias` b [f] and b' [f];
                "gate_first": gate and up are the halves of one operand [..., 2 f], b and b' those of one [2 f];
                "gate_last": the same with up before gate
    bias        there are biases
    escapes     values inside have other users, so a kernel would compute them a second time; false if it is missing

One result [..., f].
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from zenith_mlir.dialects.activations import ACTIVATIONS, apply
from zenith_mlir.dialects.fields import field

if TYPE_CHECKING:
    import jax
    from jaxlib.mlir import ir

NAME = "zenith.swiglu"
HALVES = ("none", "gate_first", "gate_last")


@dataclass(frozen=True)
class SwigluSpec:
    """What the attributes of a zenith.swiglu say."""

    activation: str = "silu"
    slope: float = 1.0
    halves: str = "none"
    bias: bool = False
    escapes: bool = False

    @property
    def operands(self) -> int:
        """How many there are."""
        return (2 if self.halves == "none" else 1) * (2 if self.bias else 1)

    def to_attributes(self) -> dict[str, ir.Attribute]:
        """As attributes of a stablehlo.composite, in the current MLIR context."""
        from zenith_mlir.dialects.attributes import to_attribute

        names = ("activation", "slope", "halves", "bias", "escapes")
        return {name: to_attribute(getattr(self, name)) for name in names}

    @classmethod
    def from_attributes(cls, attributes: Mapping[str, Any]) -> SwigluSpec:
        """Read what `to_attributes` wrote, already turned into Python values."""
        return cls(
            activation=field(NAME, attributes, "activation", str, tuple(ACTIVATIONS)),
            slope=field(NAME, attributes, "slope", float),
            halves=field(NAME, attributes, "halves", str, HALVES),
            bias=field(NAME, attributes, "bias", bool),
            escapes=bool(attributes.get("escapes", False)),
        )


def reference(spec: SwigluSpec, *operands: jax.Array, dtype: Any = None) -> jax.Array:
    """The formula, plainly, in `dtype` (default: at least float32, rounded to the dtype of the gate)."""
    import jax.numpy as jnp

    compute = dtype or jnp.promote_types(operands[0].dtype, jnp.float32)
    gate, up = _biased(spec, [operand.astype(compute) for operand in operands])
    return (apply(spec.activation, spec.slope, gate) * up).astype(dtype or operands[0].dtype)


def _biased(spec: SwigluSpec, operands: Sequence[jax.Array]) -> Sequence[jax.Array]:
    """gate + b and up + b'."""
    import jax.numpy as jnp

    if spec.halves == "none":
        gate, up, *biases = operands
        return [x + b for x, b in zip((gate, up), biases, strict=True)] if biases else [gate, up]
    first, second = jnp.split(operands[0] + operands[1] if spec.bias else operands[0], 2, axis=-1)
    return (first, second) if spec.halves == "gate_first" else (second, first)
