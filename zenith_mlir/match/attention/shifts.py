"""Subtracting the row maximum: a softmax is invariant under shifts that are constant along its axis."""

from __future__ import annotations

from jaxlib.mlir import ir

from zenith_mlir.ir.facts import defined_by, defining_op, splat
from zenith_mlir.match.attention.chains import reduction, through_convert_to
from zenith_mlir.match.attention.nomatch import NoMatch
from zenith_mlir.match.axes import Axis, AxisSpace, View, axes_of, operand_view


def strip_shifts(
    space: AxisSpace, exponential: ir.Operation, view: View, axis: Axis, at_most: int
) -> tuple[ir.Value, list[ir.Operation]]:
    """Drop `- row maximum` from what is exponentiated; at least one maximum is required."""
    value, has_maximum = exponential.operands[0], False
    ops: list[ir.Operation | None] = []
    while at_most > 0 and (op := through_convert_to(value, "stablehlo.subtract")) is not None:
        at_most -= 1
        chain = _row_constant(space, op.operands[1], view, axis)
        if chain is None:
            break
        has_maximum = has_maximum or any(reduction(link) == "stablehlo.maximum" for link in chain)
        ops += [op, *chain] if value == op.results[0] else [defining_op(value), op, *chain]
        value = op.operands[0]
    if not has_maximum:
        raise NoMatch(
            exponential,
            "the exponentials are normalised without subtracting the row maximum first",
            "use jax.nn.softmax, which cannot overflow",
        )
    return value, [op for op in reversed(ops) if op is not None]


def _row_constant(space: AxisSpace, value: ir.Value, view: View | None, axis: Axis) -> list[ir.Operation] | None:
    """The operations from a reduction along `axis` to `value`, if `value` does not vary along it; None if it does."""
    op = defining_op(value)
    if op is None or view is None:
        return None
    varies = axis in axes_of(space.resolve_view(view))
    if reduction(op) is not None:
        return None if varies else [op]
    if op.name == "stablehlo.maximum" and not varies:
        # max(row maximum, sink)
        chains = (_row_constant(space, operand, view, axis) for operand in op.operands)
        return next(([op, *chain] for chain in chains if chain is not None), None)
    if op.name == "stablehlo.select":
        # max if is_finite(max) else 0: the guard of jax.nn.softmax and logsumexp
        guard = defined_by(op.operands[0], "stablehlo.is_finite")
        if guard is None or guard.operands[0] != op.operands[1] or splat(op.operands[2]) != 0:
            return None
        chain = _row_constant(space, op.operands[1], view, axis)
        return None if chain is None else [op, guard, *chain]
    inner = operand_view(space, op, view)
    chain = None if inner is None else _row_constant(space, op.operands[0], inner, axis)
    return None if chain is None else [op, *chain]
