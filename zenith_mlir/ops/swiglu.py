"""`swiglu`, the op zenith.swiglu."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
from jax.typing import ArrayLike

from zenith_mlir.dialects import swiglu as dialect
from zenith_mlir.dialects import swiglu_vjp as dialect_vjp
from zenith_mlir.dialects.activations import ACTIVATIONS
from zenith_mlir.dialects.swiglu import HALVES, SwigluSpec
from zenith_mlir.ops.arguments import check, check_choice, check_shape, floating, present
from zenith_mlir.ops.batching import rows
from zenith_mlir.ops.primitive import Gradient, Operation, bind, define
from zenith_mlir.ops.sums import over_rows


def _gates(spec: SwigluSpec) -> int:
    """How many operands gate and up are."""
    return 2 if spec.halves == "none" else 1


def _formula(*operands: Any, spec: SwigluSpec) -> tuple[Any]:
    return (dialect.reference(spec, *operands),)


def _formula_vjp(*operands: Any, spec: SwigluSpec) -> tuple[Any, ...]:
    return dialect_vjp.reference(spec, *operands)


def _by_row(spec: SwigluSpec, operands: int) -> tuple[Sequence[bool], Sequence[bool]]:
    return [not _gates(spec) <= i < spec.operands for i in range(operands)], [True]


def _by_row_vjp(spec: SwigluSpec, operands: int) -> tuple[Sequence[bool], Sequence[bool]]:
    return _by_row(spec, operands)[0], [True] * _gates(spec)


def _pull(
    spec: SwigluSpec, operands: Sequence[Any], results: Sequence[Any], cotangents: Sequence[Any], wanted: Sequence[int]
) -> list[Any]:
    found = bind(_vjp_p, spec, *operands, cotangents[0])
    count = _gates(spec)
    return [found[i] if i < count else over_rows(found[i - count], operands[i]) for i in wanted]


_vjp_p = define(Operation(dialect_vjp.NAME, _formula_vjp, SwigluSpec.to_attributes, rows(_by_row_vjp)))
_gradient = Gradient(keep=lambda spec: spec, results=lambda spec: 1, pull=_pull)
swiglu_p = define(Operation(dialect.NAME, _formula, SwigluSpec.to_attributes, rows(_by_row), _gradient))


def swiglu(
    gate: ArrayLike,
    up: ArrayLike | None = None,
    *,
    activation: str = "silu",
    slope: float = 1.0,
    halves: str = "gate_first",
    bias: Sequence[ArrayLike] | ArrayLike | None = None,
) -> jax.Array:
    r"""Gated linear unit: SwiGLU, or with another activation GeGLU, ReGLU, GLU.

    .. math:: out = act(gate + b) \circ (up + b')

    Arithmetic is float32 at least, and the result is rounded to the dtype of the gate once.

    Args:
      gate: floating-point array of shape [..., f]; where there is no `up`, both in one, [..., 2 f].
      up: floating-point array of the shape of the gate.
      activation: "silu", "gelu" (the exact one), "gelu_tanh", "sigmoid" or "relu".
      slope: for "silu" and "sigmoid" the factor of their operand.
      halves: where there is no `up`, which half is the gate: "gate_first" or "gate_last".
      bias: the pair b and b', each of shape [f]; where there is no `up`, one array [2 f].

    Returns: an array of shape [..., f].

    Raises:
      TypeError: if an argument is not of floating-point numbers.
      ValueError: if shapes do not fit, or for an unknown activation.
    """
    op = "swiglu"
    check_choice(op, "activation", activation, tuple(ACTIVATIONS))
    check_choice(op, "halves", halves, HALVES[1:])
    (gate,), rest = floating(op, gate=gate), present(op, up=up)
    check(op, gate.ndim > 0, "gate is a scalar, expected features along its last axis")
    for array in rest:
        check_shape(op, "up", array, gate.shape, "that of the gate")
    check(
        op,
        bool(rest) or gate.shape[-1] % 2 == 0,
        f"gate has {gate.shape[-1]} features and there is no up, expected an even number, half of them each",
    )
    operands = [gate, *rest]
    biases = _biases(bias, len(operands))
    for array in biases:
        check_shape(op, "bias", array, gate.shape[-1:], f"one number a feature of gate, which has {list(gate.shape)}")
    spec = SwigluSpec(activation, float(slope), "none" if rest else halves, bool(biases))
    (out,) = bind(swiglu_p, spec, *operands, *biases)
    return out


def _biases(bias: Any, expected: int) -> list[Any]:
    if bias is None:
        return []
    given = list(bias) if isinstance(bias, list | tuple) else [bias]
    check("swiglu", len(given) == expected, f"bias is {len(given)} arrays, expected {expected}, as many as gate and up")
    return [array for each in given for array in present("swiglu", bias=each)]
