"""The problem of rematerialization that a block of StableHLO poses, and which operations its nodes and steps are."""

from __future__ import annotations

from dataclasses import dataclass

from jaxlib.mlir import ir

from zenith_mlir.ir.facts import defining_op
from zenith_mlir.remat.costs import Rates
from zenith_mlir.remat.flow import Flow
from zenith_mlir.remat.fusion import Fused
from zenith_mlir.remat.kinds import FREE, repeatable
from zenith_mlir.remat.partition import forward_length
from zenith_mlir.remat.problem import Problem
from zenith_mlir.remat.workspace import live_bytes, workspace

__all__ = ["Program", "program_of"]


@dataclass(frozen=True)
class Program:
    """A problem, and what it is about: node i is operation `nodes[i]` of `flow`, step t is `steps[t]`. The last step is
    the rest of the backward and no operation. The forward are the first `length` operations.
    """

    problem: Problem
    flow: Flow
    fused: Fused
    nodes: list[int]
    steps: list[int]
    length: int

    def fused_at(self, value: ir.Value) -> ir.Operation | None:
        """The operation that computes `value` in its users; None where `value` lies in memory or is constant."""
        i = self.flow.number.get(value)
        return None if i is None or self.fused.is_anchor[i] or self.flow.ops[i].name in FREE else self.flow.ops[i]

    def is_backward(self, value: ir.Value) -> bool:
        """Whether an operation of the backward computes `value`."""
        return self.flow.number.get(value, -1) >= self.length

    def is_constant(self, value: ir.Value) -> bool:
        """Whether `value` is a constant or counts."""
        op = defining_op(value)
        return op is not None and op.name in FREE


def program_of(block: ir.Block, module: ir.Operation, rates: Rates) -> Program:
    """What there is to keep or to recompute in `block`."""
    flow = Flow(block)
    fused = Fused(flow)
    length = forward_length(flow)
    anchors = [i for i, is_anchor in enumerate(fused.is_anchor) if is_anchor]
    nodes = [i for i in anchors if i < length]
    # Behind the last use of a forward value one more step stands for the rest of the backward.
    backward = [i for i in anchors if i >= length]
    steps = [i for i in backward if any(j < length for j in fused.operands[i])]
    backward = _as_soon_as_possible(fused, backward, steps)
    number = {i: n for n, i in enumerate(nodes)}
    problem = Problem.of(
        cost=[fused.seconds(i, module, rates) for i in nodes],
        bytes=[int(flow.bytes[i]) for i in nodes],
        operands=[sorted(number[j] for j in fused.operands[i]) for i in nodes],
        uses=[*(sorted(number[j] for j in fused.operands[i] if j < length) for i in steps), []],
        repeatable=[all(repeatable(flow.ops[j]) for j in (i, *fused.inside[i])) for i in nodes],
        forward_base=[workspace(flow.ops[i]) for i in nodes],
        backward_base=_backward_base(fused, backward, steps),
        names=[flow.ops[i].name for i in nodes],
    )
    return Program(problem, flow, fused, nodes, steps, length)


def _as_soon_as_possible(fused: Fused, backward: list[int], steps: list[int]) -> list[int]:
    """`backward` with what no later step waits for (the update of a weight, at the end of the program) directly behind
    what it reads, as XLA's schedulers have it to free memory.
    """
    is_waited_for: set[int] = set()
    stack = list(steps)
    while stack:
        i = stack.pop()
        if i not in is_waited_for:
            is_waited_for.add(i)
            stack.extend(j for j in fused.operands[i] if j >= backward[0])
    when: dict[int, int] = {}
    for i in backward:
        reads = [when[j] for j in fused.operands[i] if j in when]
        when[i] = i if i in is_waited_for or not reads else max(reads)
    return sorted(backward, key=lambda i: (when[i], i))


def _backward_base(fused: Fused, backward: list[int], steps: list[int]) -> list[int]:
    """Bytes of the backward's own values at each step and in what runs between it and the step before."""
    live = live_bytes(fused, backward)
    position = {i: n for n, i in enumerate(backward)}
    ends = [position[i] + 1 for i in steps] + [len(backward)]
    starts = [0, *ends[:-1]]
    return [int(live[a:b].max(initial=0)) for a, b in zip(starts, ends, strict=True)]
