"""From what is kept to segments of a program, each computed again by itself when the backward reaches it."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np

from zenith_mlir.remat.from_jaxpr import STANDS_ALONE
from zenith_mlir.remat.from_lines import Level
from zenith_mlir.remat.problem import Problem
from zenith_mlir.remat.schedule import Plan

__all__ = ["Segment", "Segments"]

# The share of the time of recomputing that may go into computing values again in more than one segment.
_TWICE = 0.02


@dataclass(frozen=True)
class Segment:
    """The lines `start` to `stop`. Its backward computes the lines `again` once more; those before `start` among them
    are copied into it. `away` are lines whose results it fetches from the host.

    If it `is_plain`, JAX keeps the right values without being told.
    """

    start: int
    stop: int
    again: tuple[int, ...] = ()
    away: tuple[int, ...] = ()
    is_plain: bool = False

    @property
    def lines(self) -> list[int]:
        return [*(at for at in self.again if at < self.start), *range(self.start, self.stop)]


@dataclass(frozen=True, eq=False)
class Segments:
    """How a program is run. The results of the lines `kept` wait for the backward where they are, those of `away` on
    the host; `own` are lines of both whose own backward uses their results. `bodies` are those of loops.

    It speaks of lines by number only, so it serves any program of the same lines.
    """

    segments: tuple[Segment, ...]
    kept: frozenset[int]
    away: frozenset[int]
    own: frozenset[int]
    bodies: Mapping[int, Segments]

    @classmethod
    def of(cls, problem: Problem, level: Level, keep: Collection[int], away: Collection[int] = ()) -> Segments:
        """The finest segments in which little is computed again twice, where the nodes `keep` wait for the backward,
        and `away` wait on the host.
        """
        return _Cutter(problem, level, frozenset(keep), frozenset(away)).segments()

    def plan(self, problem: Problem, level: Level, lines_of_steps: Iterable[int]) -> Plan:
        """What these segments do: each computes again, before its first step, all that it needs."""
        segment_of = {at: segment for segment in self.segments for at in range(segment.start, segment.stop)}
        reached: set[int] = set()
        batches: list[tuple[int, ...]] = []
        for at in lines_of_steps:
            segment = segment_of[at]
            batch: set[int] = set()
            if segment.start not in reached:
                batch |= {level.nodes[again] for again in (*segment.again, *segment.away) if again in level.nodes}
                reached.add(segment.start)
            if at in self.bodies:
                batch |= set(self.bodies[at]._nodes_again(level.bodies[at]))
            batches.append(tuple(sorted(batch)))
        return Plan(tuple(batches), frozenset(self._nodes_away(level)))

    def _nodes_again(self, level: Level) -> Iterator[int]:
        for segment in self.segments:
            yield from (level.nodes[at] for at in (*segment.again, *segment.away) if at in level.nodes)
        for at, body in self.bodies.items():
            yield from body._nodes_again(level.bodies[at])

    def _nodes_away(self, level: Level) -> Iterator[int]:
        yield from (level.nodes[at] for at in self.away)
        for at, body in self.bodies.items():
            yield from body._nodes_away(level.bodies[at])


class _Cutter:
    """Cuts one level into segments."""

    def __init__(self, problem: Problem, level: Level, keep: frozenset[int], away: frozenset[int]):
        self.problem = problem
        self.level = level
        self.keep = keep
        self.away_nodes = away
        self.lines = level.program.lines
        self.outside = [at for at in range(len(self.lines)) if self.runs_outside(at)]
        self.kept = {at for at, node in level.nodes.items() if node in keep} | set(level.bodies)
        self.away = {at for at, node in level.nodes.items() if node in away} - self.kept
        for at in self.outside:
            # JAX keeps all that its backward uses.
            self.kept.update(at for x in level.used(at) if (at := level.producer.get(x, -1)) in level.nodes)
        self.away -= self.kept
        self.there = self.kept | self.away

    def runs_outside(self, at: int) -> bool:
        """Whether a line is no part of anything that is computed again: it has effects, or it is a loop or the like
        that is kept, of which JAX keeps more than has a name.
        """
        opaque = self.level.needs[at].opaque and self.level.nodes.get(at) in self.keep
        return self.lines[at].equation.has_effects or at in self.level.bodies or opaque

    def segments(self) -> Segments:
        level = self.level
        own = frozenset(at for at in self.there if level.needs[at].results)
        bodies = {at: Segments.of(self.problem, body, self.keep, self.away_nodes) for at, body in level.bodies.items()}
        segments = tuple(self.joined(self.segment(a, b) for a, b in pairwise(self.cuts())))
        return Segments(segments, frozenset(self.kept), frozenset(self.away), own, bodies)

    def segment(self, start: int, stop: int) -> Segment:
        if start in self.outside:
            return Segment(start, stop, is_plain=True)
        again, away = self.again(range(start, stop))
        derived = any(self.level.needs[at].derived for at in range(start, stop))
        return Segment(start, stop, again, away, not again and not away and not derived)

    def joined(self, segments: Iterable[Segment]) -> Iterator[Segment]:
        """Neighbours are one if JAX need not be told about either, or if both are cheap and XLA may fuse them."""
        last: Segment | None = None
        for segment in segments:
            if last is None:
                last = segment
            elif last.is_plain and segment.is_plain:
                last = replace(last, stop=segment.stop)
            elif self.is_light(last) and self.is_light(segment):
                again, away = sorted({*last.again, *segment.again}), sorted({*last.away, *segment.away})
                last = Segment(last.start, segment.stop, tuple(again), tuple(away))
            else:
                yield last
                last = segment
        if last is not None:
            yield last

    def is_light(self, segment: Segment) -> bool:
        """Whether all that is computed again are views and derivatives, of lines that XLA fuses."""
        lines = range(segment.start, segment.stop)
        heavy = any(self.lines[at].equation.name in STANDS_ALONE or self.level.needs[at].opaque for at in lines)
        return not heavy and self.level.nodes.keys().isdisjoint(segment.again)

    def again(self, lines: Iterable[int]) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """The lines that have to run again for the backward of `lines`, and those that come from the host for it."""
        stack = [x for at in lines if at not in self.outside for x in self.level.used(at)]
        found: set[int] = set()
        while stack:
            at = self.level.producer.get(stack.pop())
            if at is not None and at not in self.kept and at not in found:
                found.add(at)
                stack.extend(() if at in self.away else self.lines[at].reads)
        return tuple(sorted(found - self.away)), tuple(sorted(found & self.away))

    def cuts(self) -> list[int]:
        """Where segments begin and end: around what runs outside, and where little would be computed twice."""
        count = len(self.lines)
        cost = np.zeros(count)
        for at, node in self.level.nodes.items():
            cost[at] = self.problem.cost[node]
        again, _ = self.again(range(count))
        last = self.last_needs(again)
        # A line is computed twice if a segment begins behind it, at or before the last line that needs it.
        change = np.zeros(count + 2)
        for at in again:
            change[at + 1] += cost[at]
            change[last[at] + 1] -= cost[at]
        twice = np.maximum(np.cumsum(change), 0)
        free = np.argsort(twice[1:count], kind="stable") + 1
        allowed = free[np.cumsum(twice[free]) <= _TWICE * cost[list(again)].sum() * (1 + 1e-9)]
        around = {end for at in self.outside for end in (at, at + 1)}
        return sorted({0, count, *allowed.tolist(), *around})

    def last_needs(self, again: Iterable[int]) -> dict[int, int]:
        """For each line that runs again the last one whose backward needs that."""
        last = dict.fromkeys(again, 0)
        for at in range(len(self.lines)):
            if at not in self.outside:
                self._note(last, self.level.used(at), at)
        for at in sorted(last, reverse=True):
            self._note(last, self.lines[at].reads, last[at])
        return last

    def _note(self, last: dict[int, int], values: Iterable[int], at: int) -> None:
        for x in values:
            producer = self.level.producer.get(x)
            if producer in last:
                last[producer] = max(last[producer], at)
