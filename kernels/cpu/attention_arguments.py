"""zenith.attention in the terms of the CPU kernels: what they do not take, and the arguments of their calls.

The forward (attention_implementation.py) and the backward (attention_vjp_implementation.py) share it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from zenith_mlir.dialects.attention import AttentionSpec, Step
from zenith_mlir.dialects.implementation import Refusal, TensorSpec
from zenith_mlir.dialects.layout import Layout
from zenith_mlir.kernels.cpu.floats import FLOATS, refuse_other_types

if TYPE_CHECKING:
    import jax

    from zenith_mlir.kernels.cpu import attention as kernel

_MAX_PARALLEL_AXES = 8
LIMITS = (
    f"queries, keys, values and result of {', '.join(FLOATS)}; one contracted axis; up to {_MAX_PARALLEL_AXES} batch "
    "and head axes; one sink; probabilities that nobody else uses"
)


def refuse(spec: AttentionSpec, floats: Iterable[TensorSpec], min_seq: int | None) -> Refusal | None:
    """Why neither kernel takes an attention in which `floats` have to be of a float type: limits first (types, axes),
    then worth (escaping probabilities, short sequences).
    """
    refusal = refuse_other_types(floats)
    if refusal is not None:
        return refusal
    if len(spec.contracted) != 1:
        return Refusal("queries and keys are contracted over several axes", "reshape them into one")
    if len(spec.parallel) > _MAX_PARALLEL_AXES:
        return Refusal(f"the CPU kernel takes {_MAX_PARALLEL_AXES} batch and head axes, not {len(spec.parallel)}")
    if sum(step.is_sink for step in spec.steps) > 1:
        return Refusal("the CPU kernel has one attention sink a row, not several")
    if spec.escapes:
        return Refusal(
            "the logits or probabilities are used elsewhere too, so they are computed anyway",
            "do not return the attention weights",
        )
    return _refuse_short(spec.size("t"), spec.size("s"), min_seq)


def _refuse_short(rows: int, columns: int, min_seq: int | None) -> Refusal | None:
    if max(rows, columns) >= (min_seq or 0):
        return None
    return Refusal(f"sequence {rows} x {columns} is below min-seq={min_seq}", "lower min-seq to fuse it")


def strides(spec: AttentionSpec, layout: Layout, *last: str) -> list[int]:
    """Strides of a value of this layout along the parallel axes, then those of `last`."""
    return layout.strides_over([*spec.parallel, *last], spec.axes)


def arguments(spec: AttentionSpec) -> dict[str, Any]:
    """The arguments that both calls have besides their arrays."""
    (contracted,), modifiers = spec.contracted, modifiers_of(spec)
    return {
        "dims": [spec.size(axis) for axis in spec.parallel],
        "sizes": (spec.size("t"), spec.size("s"), spec.size(contracted), spec.size("e")),
        "q_strides": strides(spec, spec.q, "t", contracted),
        "k_strides": strides(spec, spec.k, "s", contracted),
        "v_strides": strides(spec, spec.v, "s", "e"),
        "out_strides": strides(spec, spec.out, "t", "e"),
        "mod_strides": [strides(spec, modifier.layout(spec), "t", "s") for modifier in modifiers],
        "steps": [encoded for step in spec.steps for encoded in _encode(step, modifiers)],
    }


# The kernels multiply, add and select; what a step divides by, subtracts or inverts is turned around before the call.
_TURNS: dict[str, Callable[[jax.Array], jax.Array]] = {
    "": lambda m: m if m.dtype == np.bool_ or m.dtype.name in FLOATS else m.astype(np.float32),
    "not": lambda m: ~m,
    "minus": lambda m: -m.astype(np.float32),
    "reciprocal": lambda m: 1 / m.astype(np.float32),
}


@dataclass(frozen=True)
class Modifier:
    """An operand of the kernels' steps: a role, turned around where needed, or (role None) a constant."""

    role: int | None
    turn: str = ""
    constant: float = 0.0

    def of(self, roles: Sequence[jax.Array]) -> jax.Array:
        """The array, given what plays each role."""
        import jax.numpy as jnp

        return jnp.float32(self.constant) if self.role is None else _TURNS[self.turn](roles[self.role])

    def layout(self, spec: AttentionSpec) -> Layout:
        return Layout(()) if self.role is None else spec.role_layouts[self.role]

    @classmethod
    def needed_by(cls, step: Step) -> Modifier | None:
        if step.kind == "post_scale":
            return cls(None, constant=step.value or 0.0)
        if step.operand is None:
            return None
        return cls(
            step.operand, "not" if step.negated else {"subtract": "minus", "divide": "reciprocal"}.get(step.kind, "")
        )


def modifiers_of(spec: AttentionSpec) -> list[Modifier]:
    """What the steps need, each once."""
    return list(dict.fromkeys(m for step in spec.steps if (m := Modifier.needed_by(step)) is not None))


def _encode(step: Step, modifiers: Sequence[Modifier]) -> Sequence[kernel.Step]:
    """`step` in the kernels' own steps."""
    from zenith_mlir.kernels.cpu import attention as kernel

    op, value = kernel.Opcode, 0.0 if step.value is None else _to_float32(step.value)
    low = -kernel.UNBOUNDED if step.low is None else step.low
    high = kernel.UNBOUNDED if step.high is None else step.high
    modifier = Modifier.needed_by(step)
    if modifier is not None:
        return [kernel.Step(op[_WITH_OPERAND[step.kind]], value, modifiers.index(modifier))]
    if step.kind in ("band", "band_add"):
        return [kernel.Step(op[step.kind.upper()], value, lo=low, hi=high)]
    if step.kind == "minimum":  # min(x, c) = -max(-x, -c)
        return [kernel.Step(op.SCALE, -1.0), kernel.Step(op.MAX, -value), kernel.Step(op.SCALE, -1.0)]
    return [kernel.Step(op[_WITH_NUMBER[step.kind]], value)]


_WITH_OPERAND = {
    "multiply": "MUL", "divide": "MUL", "add": "ADD", "subtract": "ADD", "select": "SELECT",
    "sink": "SINK",
    "post_scale": "POST_MUL", "post_multiply": "POST_MUL", "post_select": "POST_SELECT",
}  # fmt: skip
_WITH_NUMBER = {"scale": "SCALE", "offset": "OFFSET", "tanh": "TANH", "maximum": "MAX"}


def _to_float32(value: float) -> float:
    """`value` rounded to float32; float64 fills beyond its range become infinite, as converting them would."""
    with np.errstate(over="ignore"):
        return float(np.float32(value))
