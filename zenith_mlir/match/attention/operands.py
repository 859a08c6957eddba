"""Where an operand of the attention really comes from: up through shape operations, conversions and constant
factors.
"""

from __future__ import annotations

from dataclasses import dataclass

from jaxlib.mlir import ir

from zenith_mlir.canonical.shapes import holds
from zenith_mlir.ir.facts import (
    SHAPE_OPS,
    defining_op,
    element_type,
    has_static_shape,
    is_float,
    producer,
    splat,
    users,
)
from zenith_mlir.match.axes import AxisSpace, View, operand_view, result_view


@dataclass(frozen=True)
class Operand:
    """A value that enters the composite, and what its dimensions run over."""

    value: ir.Value
    view: View


@dataclass(frozen=True)
class Absorbed:
    """An operand moved up to where it is read from, the operations passed on the way, and the product of the constant
    factors.
    """

    operand: Operand
    ops: tuple[ir.Operation, ...]
    scale: float = 1.0


def absorb(space: AxisSpace, operand: Operand, block: ir.Block, scaling: bool) -> Absorbed:
    """Walk up through transposes, repeats, widening converts and, if `scaling`, constant factors.

    Plain reshapes count only below something worth absorbing: where they are they cost nothing.
    """
    found, value, view = Absorbed(operand, ()), operand.value, operand.view
    pending: list[ir.Operation] = []
    scale = 1.0
    while (op := defining_op(value)) is not None and op.block == block:
        factor = _constant_factor(op) if scaling else None
        inner = view if factor is not None else _read_through(space, op, view)
        if inner is None:
            break
        value, view, scale = op.operands[0], inner, scale * (factor or 1.0)
        pending.append(op)
        if op.name != "stablehlo.reshape":
            found = Absorbed(Operand(value, view), tuple(pending), scale)
    return found


def absorb_modifier(space: AxisSpace, operand: Operand, block: ir.Block) -> Absorbed:
    """Walk a bias or mask up through shape operations: repeats are read in place."""
    value, view = operand.value, operand.view
    ops: list[ir.Operation] = []
    while (op := defining_op(value)) is not None and op.block == block:
        inner = _read_through(space, op, view)
        if inner is None:
            break
        value, view = op.operands[0], inner
        ops.append(op)
    return Absorbed(Operand(value, view), tuple(ops))


def absorb_result(space: AxisSpace, result: Operand) -> Absorbed:
    """Transposes of the result are a matter of where it is written."""
    value, view = result.value, space.resolve_view(result.view)
    ops: list[ir.Operation] = []
    block = producer(value).block
    while len(found := users(value)) == 1 and found[0].name == "stablehlo.transpose" and found[0].block == block:
        transposed = result_view(space, found[0], view)
        assert transposed is not None
        value, view = found[0].results[0], transposed
        ops.append(found[0])
    return Absorbed(Operand(value, view), tuple(ops))


def _read_through(space: AxisSpace, op: ir.Operation, view: View) -> View | None:
    """The view of `op`'s operand, if reading that instead of the result gives the same numbers."""
    if op.name not in SHAPE_OPS or not has_static_shape(op.operands[0]):
        return None
    if op.name == "stablehlo.convert":
        wide, narrow = element_type(op.results[0]), element_type(op.operands[0])
        if not is_float(narrow) or not holds(wide, narrow):
            return None
    return operand_view(space, op, view)


# Beyond, a factor on an operand may keep the product from overflowing where the same factor on the product comes late.
_SMALLEST_FACTOR = 2.0**-40


def _constant_factor(op: ir.Operation) -> float | None:
    """c, if `op` is x * c or x / (1 / c) with a constant."""
    if op.name not in ("stablehlo.multiply", "stablehlo.divide"):
        return None
    number = splat(op.operands[1])
    if number is None or not _SMALLEST_FACTOR < abs(number) < 1 / _SMALLEST_FACTOR:
        return None
    return float(number) if op.name == "stablehlo.multiply" else 1.0 / float(number)
