"""Ways through conversions and shape operations, up to where a value comes from and down to who uses it."""

from __future__ import annotations

from jaxlib.mlir import ir

from zenith_mlir.ir.facts import SHAPE_OPS, defining_op, is_float_convert, users
from zenith_mlir.match.axes import AxisSpace, View, operand_view


def through_converts(value: ir.Value) -> ir.Value:
    while (op := defining_op(value)) is not None and is_float_convert(op):
        value = op.operands[0]
    return value


def through_convert_to(value: ir.Value, name: str) -> ir.Operation | None:
    """The operation called `name` that defines `value`, or what `value` was converted from."""
    op = defining_op(value)
    if op is not None and is_float_convert(op):
        op = defining_op(op.operands[0])
    return op if op is not None and op.name == name else None


def direct_and_converted_users(value: ir.Value) -> list[ir.Operation]:
    """Who uses `value`, or what it is converted to."""
    found = users(value)
    return found + [user for op in found if is_float_convert(op) for user in direct_and_converted_users(op.results[0])]


def read_up(space: AxisSpace, value: ir.Value, view: View) -> tuple[ir.Value, View]:
    """Where `value` comes from, up through shape operations, with its view."""
    while (op := defining_op(value)) is not None and op.name in SHAPE_OPS:
        inner = operand_view(space, op, view)
        if inner is None:
            break
        value, view = op.operands[0], inner
    return value, view


def same_rows(space: AxisSpace, one: tuple[ir.Value, View], other: tuple[ir.Value, View]) -> bool:
    """Whether two values, each with its view, are the same numbers at the same rows."""
    (value, view), (other_value, other_view) = read_up(space, *one), read_up(space, *other)
    return value == other_value and space.resolve_view(view) == space.resolve_view(other_view)


def descends(value: ir.Value, ancestor: ir.Operation) -> bool:
    """Whether `ancestor` is among the operations close above `value`."""
    frontier, seen = [value], 0
    while frontier and seen < 32:
        op = defining_op(frontier.pop(0))
        seen += 1
        if op is not None:
            if op == ancestor:
                return True
            frontier.extend(op.operands)
    return False


def between(stops: set[ir.Value], last: ir.Operation, subtrahends: bool = False) -> list[ir.Operation]:
    """Operations from `stops` down to `last`.

    What a mask selects by belongs to the logits, as does, unless `subtrahends`, what a sink is shifted by.
    """
    found: list[ir.Operation] = [last]
    frontier = _carried(last, subtrahends)
    while frontier:
        value = frontier.pop()
        op = defining_op(value)
        if op is None or value in stops or op in found or op.name == "stablehlo.constant":
            continue
        found.append(op)
        frontier.extend(_carried(op, subtrahends))
    return found


def _carried(op: ir.Operation, subtrahends: bool) -> list[ir.Value]:
    operands = list(op.operands)
    if op.name == "stablehlo.select":
        return operands[1:]
    return operands[:1] if op.name == "stablehlo.subtract" and not subtrahends else operands
