"""Where the backward of an attention stands in its block: what it is made of, what else uses that, where it can go."""

from __future__ import annotations

from collections.abc import Iterable

from jaxlib.mlir import ir

from zenith_mlir.ir.cones import cone
from zenith_mlir.ir.facts import producer, users
from zenith_mlir.match.constants import EXACT_OPS
from zenith_mlir.match.nomatch import NoMatch


def refuse_survivors(values: Iterable[ir.Value], ops: set[ir.Operation], replaced: set[ir.Value]) -> None:
    """Raises: NoMatch if one of `values` is used outside of `ops` once the values in `replaced` come from elsewhere."""
    for value in values:
        survivor = None if value in replaced else _survivor(producer(value), ops, replaced)
        if survivor is not None:
            raise NoMatch(
                survivor,
                "the probabilities, or their gradients, are used by something that is no part of the attention",
            )


def _survivor(op: ir.Operation, ops: set[ir.Operation], replaced: set[ir.Value]) -> ir.Operation | None:
    """A user outside of `ops` that keeps `op` alive once the values in `replaced` come from elsewhere."""
    stack, seen = [op], {op}
    while stack:
        current = stack.pop()
        following = [user for result in current.results if result not in replaced for user in users(result)]
        for user in following:
            if user not in ops and not _is_dead_end(user):
                return user
            if user not in seen:
                seen.add(user)
                stack.append(user)
    return None


def _is_dead_end(op: ir.Operation) -> bool:
    """Whether nothing uses the results of `op`, which is there for its results alone."""
    return bool(op.results) and not any(True for result in op.results for _ in result.uses) and not len(op.regions)


def backward_ops(results: list[ir.Value], stops: set[ir.Value], block: ir.Block) -> list[ir.Operation]:
    """The operations that `results` depend on, up to `stops`, producers first.

    A mask that was proven to be a band leaves no operand: what it is computed from may stand in an outer block.

    Raises: NoMatch if they depend on something else of another block, or on an operation with regions of its own.
    """

    def enter(value: ir.Value, op: ir.Operation | None) -> bool:
        outside = op is None or (op.block != block and op.name not in EXACT_OPS)
        if op is None or outside or op.name in _BARRIERS:
            culprit = producer(results[0]) if op is None else op
            raise NoMatch(culprit, "the gradient depends on something that the attention does not")
        return op.name != "stablehlo.constant"

    return cone(results, stops, enter)


_BARRIERS = frozenset(
    {"stablehlo.while", "stablehlo.case", "stablehlo.if", "stablehlo.optimization_barrier", "stablehlo.custom_call"}
)
