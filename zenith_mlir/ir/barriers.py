"""Computing a value behind an optimization_barrier from what passes the barrier beside it."""

from __future__ import annotations

from collections.abc import Callable

from jaxlib.mlir import ir

from zenith_mlir.ir.cones import cone
from zenith_mlir.ir.facts import defined_by


def compute_past(barrier: ir.Operation, index: int, repeatable: Callable[[ir.Operation], bool]) -> bool:
    """Let result `index` of `barrier` be computed again behind it, by `repeatable` operations from its other results;
    the barrier passes it no longer. False, and nothing changed, if they do not suffice.
    """
    others = [value for i, value in enumerate(barrier.operands) if i != index]
    # Folded reshapes go past what the barrier is given to where that comes from.
    reshaped = {op.operands[0]: value for value in others if (op := defined_by(value, "stablehlo.reshape")) is not None}
    cone = _cone(barrier.operands[index], {*others, *reshaped}, repeatable)
    if cone is None:
        return False
    with ir.InsertionPoint(barrier), barrier.location:
        narrower = ir.Operation.create(barrier.name, results=[value.type for value in others], operands=others)
    mapping = dict(zip(others, narrower.results, strict=True))
    with ir.InsertionPoint(barrier), barrier.location:
        for source, value in reshaped.items():
            back = ir.Operation.create("stablehlo.reshape", results=[source.type], operands=[mapping[value]])
            mapping.setdefault(source, back.results[0])
        for op in cone:
            clone = op.clone()
            for i, operand in enumerate(op.operands):
                clone.operands[i] = mapping.get(operand, operand)
            mapping.update(zip(op.results, clone.results, strict=True))
    passed = [*others[:index], barrier.operands[index], *others[index:]]
    for result, value in zip(barrier.results, passed, strict=True):
        result.replace_all_uses_with(mapping[value])
    barrier.erase()
    return True


class _BesideTheBarrier(Exception):
    """The way up leads past what the barrier is given."""


def _cone(
    value: ir.Value, stops: set[ir.Value], repeatable: Callable[[ir.Operation], bool]
) -> list[ir.Operation] | None:
    """What computes `value` from `stops` and constants, producers first; None if that needs anything else."""

    def enter(_: ir.Value, op: ir.Operation | None) -> bool:
        if op is not None and op.name == "stablehlo.constant":
            return False
        if op is None or not repeatable(op):
            raise _BesideTheBarrier
        return True

    try:
        return cone([value], stops, enter)
    except _BesideTheBarrier:
        return None
