"""Values that have to have one type: what a loop carries, branches return, calls pass, a barrier lets through."""

from __future__ import annotations

from collections.abc import Sequence

from jaxlib.mlir import ir

from zenith_mlir.ir.loops import Loop

# Operands, as operations and numbers, that become values which are one and the same.
Join = tuple[Sequence[tuple[ir.Operation, int]], Sequence[ir.Value]]


def joins_of(op: ir.Operation) -> list[Join] | None:
    """The joins that `op` makes; None if it is no operation of the kind."""
    match op.name:
        case "stablehlo.while":
            return _loop(Loop(op))
        case "stablehlo.case" | "stablehlo.if":
            ends = [terminator(region.blocks[0]) for region in op.regions]
            return [([(end, i) for end in ends], [result]) for i, result in enumerate(op.results)]
        case "stablehlo.optimization_barrier":
            return [([(op, i)], [result]) for i, result in enumerate(op.results)]
    return None


def _loop(loop: Loop) -> list[Join]:
    """The condition, the body and what is behind the loop see the value that goes in or comes back."""
    return [
        (
            [(loop.op, i), (loop.terminator, i)],
            [loop.body.arguments[i], loop.cond.arguments[i], loop.op.results[i]],
        )
        for i in range(len(loop.op.operands))
    ]


def call_joins(func: ir.Operation, calls: Sequence[ir.Operation]) -> list[Join]:
    """Arguments are what any call passes, results of all calls what the function returns."""
    block = func.regions[0].blocks[0]
    end = terminator(block)
    arguments: list[Join] = [([(call, i) for call in calls], [argument]) for i, argument in enumerate(block.arguments)]
    results: list[Join] = [([(end, i)], [call.results[i] for call in calls]) for i in range(len(end.operands))]
    return arguments + results


def terminator(block: ir.Block) -> ir.Operation:
    *_, last = block.operations
    end: ir.Operation = last.operation
    return end
