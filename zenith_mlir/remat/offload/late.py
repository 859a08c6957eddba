"""Cheap operations where they are needed, and not before."""

from __future__ import annotations

from collections.abc import Collection

from jaxlib.mlir import ir

from zenith_mlir.remat.offload.residuals import CHEAP, Order

__all__ = ["sink_cheap"]


def sink_cheap(order: Order, start: int, fixed: Collection[ir.Operation]) -> Order:
    """Move cheap operations, from position `start` on, down to the first operation that is not cheap and needs them;
    those `fixed` stay. Returns the new order.

    So a gradient that is computed now and cast, padded and added up at the end waits as it was computed.
    """
    *ops, terminator = order.ops
    target = list(range(len(ops) + 1))
    cheap = [i >= start and op.name in CHEAP and op not in fixed for i, op in enumerate(ops)]
    for i in reversed(range(start, len(ops))):
        users = [order.of(use.owner.operation) for result in ops[i].results for use in result.uses] if cheap[i] else []
        target[i] = min((target[user] for user in users), default=i)
    for i in sorted(range(start, len(ops)), key=lambda i: (target[i], not cheap[i], i)):
        ops[i].move_before(terminator)
    return Order(order.block)
