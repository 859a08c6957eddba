"""Sends residuals to the host and lets the backward use what comes back."""

from __future__ import annotations

import heapq
from collections.abc import Collection, Iterable, Iterator, Sequence
from itertools import count

import numpy as np
from jaxlib.mlir import ir
from numpy.typing import NDArray

from zenith_mlir.ir.facts import defining_op, element_type, is_float
from zenith_mlir.ir.outline import erase_if_unused
from zenith_mlir.remat.kinds import FREE, outer_operands
from zenith_mlir.remat.offload.placement import DEVICE, HOST, is_placement, placed, tied
from zenith_mlir.remat.offload.residuals import CHEAP, Order, Residual

__all__ = ["cotangent", "send"]


def cotangent(
    order: Order, forward: int, residual: Residual, begins: NDArray[np.float64], at: float, taken: Collection[ir.Value]
) -> ir.Value | None:
    """The value of the backward that the way back of `residual` waits for: of those from which its first use is
    computed the last that is there at second `at`, else the first of them. None if there is none; never one of `taken`.

    Results of elementwise operations come last: a barrier behind one would keep XLA from fusing it into its users.
    """
    earliest: ir.Value | None = None
    fused: ir.Value | None = None
    for value in _backward_of(order, forward, order.ops[residual.needed]):
        op = defining_op(value)
        assert op is not None
        if value in taken or not _is_float(value):
            continue
        if op.name in CHEAP:
            fused = fused or value
        else:
            earliest = value
            if begins[order.of(op) + 1] <= at:
                break
    return earliest or fused


def _backward_of(order: Order, forward: int, op: ir.Operation) -> Iterator[ir.Value]:
    """The values of the backward from which `op` is computed, the last one first."""
    number = count()
    heap: list[tuple[int, int, ir.Value]] = []
    seen: set[ir.Value] = set()

    def push(user: ir.Operation) -> None:
        for value in outer_operands(user):
            made = order.made(value)
            if made >= forward and value not in seen:
                seen.add(value)
                heapq.heappush(heap, (-made, next(number), value))

    push(op)
    while heap:
        made, _, value = heapq.heappop(heap)
        source = order.ops[-made]
        if source.name in FREE or is_placement(source):
            continue
        yield value
        push(source)


def _is_float(value: ir.Value) -> bool:
    return isinstance(value.type, ir.RankedTensorType) and is_float(element_type(value))


def send(order: Order, plan: Iterable[tuple[Residual, ir.Value]]) -> None:
    """Put each residual on the host where it is computed, and back on the device when the value beside it is there."""
    waiting: dict[ir.Value, list[Residual]] = {}
    for residual, anchor in plan:
        waiting.setdefault(anchor, []).append(residual)
    # The narrow first: what is made again of a wide value may take a narrow one, and has to see its copy.
    ready: list[tuple[Residual, ir.Value]] = []
    for anchor, together in waiting.items():
        hosts = []
        for residual in together:
            with ir.InsertionPoint.after(residual.op), residual.op.location:
                hosts.append(placed(residual.value, HOST))
        source = defining_op(anchor)
        assert source is not None, "a value of the backward is computed"
        with ir.InsertionPoint.after(source), source.location:
            *arrivals, _ = tied(hosts, anchor)
            back = [placed(arrival, DEVICE) for arrival in arrivals]
        ready += zip(together, back, strict=True)
    for residual, value in sorted(ready, key=lambda pair: pair[0].bytes):
        _use(order, residual, value)
    again = {op for residual, _ in ready for op in residual.again}
    for op in sorted(again, key=order.of, reverse=True):
        erase_if_unused(op)


def _use(order: Order, residual: Residual, back: ir.Value) -> None:
    """Let the backward use `back`, and what is made of it again."""
    made_by: dict[ir.Value, ir.Operation] = {result: op for op in residual.again for result in op.results}
    copies = {residual.value: back}
    for use in residual.uses:
        with ir.InsertionPoint(order.ops[use.position]):
            use.op.operands[use.index] = _copy(use.value, made_by, copies)


def _copy(value: ir.Value, made_by: dict[ir.Value, ir.Operation], copies: dict[ir.Value, ir.Value]) -> ir.Value:
    """`value` made of what came back, at the current insertion point."""
    for op in _needed(value, made_by, copies):
        clone = op.clone()
        for i, operand in enumerate(op.operands):
            clone.operands[i] = copies.get(operand, operand)
        copies.update(zip(op.results, clone.results, strict=True))
    return copies[value]


def _needed(
    value: ir.Value, made_by: dict[ir.Value, ir.Operation], copies: Collection[ir.Value]
) -> Sequence[ir.Operation]:
    """The operations that `value` still takes, producers first."""
    ordered: dict[ir.Operation, None] = {}
    stack = [(value, False)]
    while stack:
        current, expanded = stack.pop()
        op = made_by.get(current)
        if op is None or current in copies or op in ordered:
            continue
        if expanded:
            ordered[op] = None
        else:
            stack.append((current, True))
            stack.extend((operand, False) for operand in op.operands)
    return list(ordered)
