"""Sends residuals to the host and lets the backward use what comes back."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from jaxlib.mlir import ir

from zenith_mlir.ir.facts import producer, shape, users
from zenith_mlir.ir.outline import erase_if_unused
from zenith_mlir.remat.kinds import FREE
from zenith_mlir.remat.offload.late import sink_cheap
from zenith_mlir.remat.offload.placement import DEVICE, HOST, is_on_host, is_placement, placed, tied
from zenith_mlir.remat.offload.residuals import CHEAP, Order, Residual

__all__ = ["Sending", "send"]


@dataclass(frozen=True)
class Sending:
    """`residual` goes to the host before anything uses `activation`, of the forward (None: whenever), and comes back
    when `cotangent`, of the backward, is there.
    """

    residual: Residual
    activation: ir.Value | None
    cotangent: ir.Value


def send(order: Order, forward: int, plan: Sequence[Sending]) -> None:
    """Put residuals on the host where they are computed, and back on the device for the backward.

    Whatever the backward has computed when a value starts back is behind the same barrier. XLA would else put off what
    nobody needs before the end, gradients of weights, and keep alive what they are computed from.
    """
    order = sink_cheap(order, forward, {producer(sending.cotangent) for sending in plan})
    hosts = {sending: _placed_after(sending.residual) for sending in plan}
    back: dict[Sending, ir.Value] = {}
    done = forward
    for cotangent, together in sorted(_by(plan, lambda s: s.cotangent).items(), key=lambda item: order.made(item[0])):
        position = order.made(cotangent)
        passing = [*_waiting(order, done, position), cotangent]
        done = position + 1
        arrived = _tied_after(cotangent, [hosts[sending] for sending in together], passing)
        with ir.InsertionPoint.after(producer(arrived[0])), producer(cotangent).location:
            for sending, value in zip(together, arrived, strict=False):
                back[sending] = placed(value, DEVICE)
    # The narrow first: what is made again of a wide value may take a narrow one, and has to see its copy.
    for sending in sorted(plan, key=lambda sending: sending.residual.bytes):
        _use(order, sending.residual, back[sending])
    again = {op for sending in plan for op in sending.residual.again}
    for op in sorted(again, key=order.of, reverse=True):
        erase_if_unused(op)
    # Last, since it gives what the forward uses from here on another name.
    waiting = [sending for sending in plan if sending.activation is not None]
    for activation, together in _by(waiting, lambda sending: sending.activation).items():
        sent = [hosts[sending] for sending in together]
        for host, value in zip(sent, _tied_after(activation, sent, [activation]), strict=False):
            host.replace_all_uses_except(value, producer(value))


def _waiting(order: Order, start: int, end: int) -> list[ir.Value]:
    """What operations from `start` on and before `end` compute that something behind `end` uses: no cheap ones, whose
    operands wait instead, and no scalars, so that the loss stays free of the backward.
    """
    return [
        value
        for op in order.ops[start:end]
        if op.name not in CHEAP and op.name not in FREE and not is_placement(op)
        for value in op.results
        if isinstance(value.type, ir.RankedTensorType) and shape(value) and not is_on_host(value)
        if any(order.of(user) > end for user in users(value))
    ]


def _placed_after(residual: Residual) -> ir.Value:
    with ir.InsertionPoint.after(residual.op), residual.op.location:
        return placed(residual.value, HOST)


def _by(plan: Iterable[Sending], key: Callable[[Sending], Any]) -> dict[ir.Value, list[Sending]]:
    groups: dict[ir.Value, list[Sending]] = {}
    for sending in plan:
        groups.setdefault(key(sending), []).append(sending)
    return groups


def _tied_after(value: ir.Value, hosts: Sequence[ir.Value], passing: Sequence[ir.Value]) -> list[ir.Value]:
    """`hosts` and what is `passing` out of a barrier just behind what computes `value`, and behind its placement."""
    op = producer(value)
    placements = [user for user in users(value) if is_placement(user)]
    with ir.InsertionPoint.after(placements[0] if placements else op), op.location:
        return tied(hosts, passing)


def _use(order: Order, residual: Residual, back: ir.Value) -> None:
    """Let the backward use `back`, and what is made of it again."""
    made_by: dict[ir.Value, ir.Operation] = {result: op for op in residual.again for result in op.results}
    copies = {residual.value: back}
    for use in sorted(residual.uses, key=lambda use: order.of(use.op)):
        with ir.InsertionPoint(order.ops[order.of(use.op)]):
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
