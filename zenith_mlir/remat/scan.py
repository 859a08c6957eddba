"""Rematerialization of a scan: which values of an iteration its forward loop stacks, and which the backward loop
computes again from those.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass

from jaxlib.mlir import ir

from zenith_mlir.ir.loops import Loop
from zenith_mlir.ir.stacks import Row, add_stacks, is_only_loaded, recompute, stored
from zenith_mlir.remat.costs import Rates
from zenith_mlir.remat.flow import Flow
from zenith_mlir.remat.fusion import Fused
from zenith_mlir.remat.kinds import FREE, bytes_of, outer_operands, repeatable
from zenith_mlir.remat.problem import Problem

__all__ = ["Scan", "scans"]


@dataclass(frozen=True)
class Scan:
    """A forward loop, the rows that it stacks for later loops, and the problem which values of an iteration to stack.

    Node i computes `values[i]` once in each of `trip_count` iterations; the one step of the backward is an iteration of
    the later loops. What is computed again takes nothing in this problem: an iteration is short, and all stacks stay
    where they are while it runs.
    """

    loop: Loop
    rows: list[Row]
    trip_count: int
    problem: Problem
    values: list[tuple[ir.Value, ...]]

    @property
    def stacked_bytes(self) -> int:
        """What its stacks take."""
        return self.trip_count * sum(bytes_of(row.value.type) for row in self.rows)

    def keep(self, nodes: Collection[int]) -> int:
        """Stack the values of `nodes` and let the backward compute the other rows from them; returns how many reads of
        rows were replaced.
        """
        wanted = [value for i in sorted(nodes) for value in self.values[i]]
        stacked = {row.source for row in self.rows}
        dropped = {row.carry for row in self.rows if row.source not in wanted}
        loop = add_stacks(self.loop, [value for value in wanted if value not in stacked])
        rows = [row for row in stored(loop) if row.carry in dropped]
        return recompute(loop, rows, _can_repeat) if rows else 0


def scans(block: ir.Block, module: ir.Operation, rates: Rates) -> list[Scan]:
    """The loops of `block` that stack what nobody but later loops reads, and those row by row."""
    loops = (Loop(op.operation) for op in block.operations if op.operation.name == "stablehlo.while")
    found = ((loop, [row for row in stored(loop) if is_only_loaded(loop, row)]) for loop in loops)
    return [_scan(loop, rows, module, rates) for loop, rows in found if rows]


def _scan(loop: Loop, rows: list[Row], module: ir.Operation, rates: Rates) -> Scan:
    assert loop.counter is not None
    counter, trip_count = loop.counter
    body = _Body(loop, counter)
    wanted = [body.sources([row.source]) for row in rows]
    order = body.ordered({source for sources in wanted for source in sources})
    number = {source: i for i, source in enumerate(order)}
    operands = [sorted(number[read] for read in body.reads(source)) for source in order]
    sizes = [body.bytes(source) for source in order]
    problem = Problem.of(
        cost=[trip_count * body.seconds(source, module, rates) for source in order],
        bytes=[trip_count * size for size in sizes],
        transient=[0] * len(sizes),
        operands=operands,
        uses=[sorted({number[source] for sources in wanted for source in sources})],
        repeatable=[body.can_repeat(source) for source in order],
        names=[body.name(source) for source in order],
    )
    return Scan(loop, rows, trip_count, problem, [body.values(source) for source in order])


class _Body:
    """The body of a loop: its *sources* are the anchors, by number, and the arguments that change from one iteration to
    the next, as -1 - i.
    """

    def __init__(self, loop: Loop, counter: int) -> None:
        self._flow = Flow(loop.body)
        self._fused = Fused(self._flow)
        self._arguments = list(loop.body.arguments)
        changing = (i for i in range(len(self._arguments)) if i != counter and not loop.is_invariant(i))
        self._changing: dict[ir.Value, int] = {self._arguments[i]: -1 - i for i in changing}

    def sources(self, values: Iterable[ir.Value]) -> list[int]:
        """What `values` are computed from, through operations that are fused into their users."""
        found: dict[int, None] = {}
        seen: set[ir.Value] = set()
        stack = list(values)
        while stack:
            value = stack.pop()
            if value in seen:
                continue
            seen.add(value)
            i = self._flow.number.get(value)
            if value in self._changing:
                found[self._changing[value]] = None
            elif i is not None and self._fused.is_anchor[i]:
                found[i] = None
            elif i is not None and self._flow.ops[i].name not in FREE:
                stack.extend(outer_operands(self._flow.ops[i]))
        return list(found)

    def reads(self, source: int) -> list[int]:
        """The sources that a source is computed from."""
        return [] if source < 0 else self.sources(outer_operands(self._flow.ops[source]))

    def ordered(self, sources: Iterable[int]) -> list[int]:
        """`sources` and all that they are computed from, in the order of the program, arguments first."""
        found: set[int] = set()
        stack = list(sources)
        while stack:
            source = stack.pop()
            if source not in found:
                found.add(source)
                stack.extend(self.reads(source))
        return sorted(found)

    def values(self, source: int) -> tuple[ir.Value, ...]:
        return (self._arguments[-1 - source],) if source < 0 else tuple(self._flow.ops[source].results)

    def bytes(self, source: int) -> int:
        return sum(bytes_of(value.type) for value in self.values(source))

    def seconds(self, source: int, module: ir.Operation, rates: Rates) -> float:
        return 0.0 if source < 0 else self._fused.seconds(source, module, rates)

    def can_repeat(self, source: int) -> bool:
        return source >= 0 and all(_can_repeat(self._flow.ops[i]) for i in (source, *self._fused.inside[source]))

    def name(self, source: int) -> str:
        return f"carry {-1 - source}" if source < 0 else str(self._flow.ops[source].name)


_REGIONS_OF_THEIR_OWN = frozenset({"stablehlo.while", "stablehlo.case", "stablehlo.if"})


def _can_repeat(op: ir.Operation) -> bool:
    return op.name not in _REGIONS_OF_THEIR_OWN and repeatable(op)
