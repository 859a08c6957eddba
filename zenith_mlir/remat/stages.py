"""A problem as a chain of stages, with modes that minimum cuts inside of them find, and plans of the chain as plans of
the problem.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from zenith_mlir.remat.boundaries import Boundaries
from zenith_mlir.remat.chain import Back, Chain, Mode, Run, Stage
from zenith_mlir.remat.cut import Hull
from zenith_mlir.remat.problem import Problem
from zenith_mlir.remat.schedule import Plan, lazily, simulate
from zenith_mlir.remat.search import movable

__all__ = ["Stages"]

# Modes between two corners of a hull that are apart by so much of the bytes: stages of equal layers have few corners.
_MIXTURES = 3
_APART = 0.1

Flags = NDArray[np.bool_]
Indices = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class _Way:
    """A mode of some stages together, by nodes counted from their start, `recompute` by steps from theirs; `step_peaks`
    are the bytes live in each step, base left out.
    """

    keep: Indices
    recompute: tuple[tuple[int, tuple[int, ...]], ...]
    bytes: int
    forward_cost: float
    backward_cost: float
    forward_peak: int
    step_peaks: Indices


class Stages:
    """The stages of `problem` between `positions`, which start with 0, and their modes: of 1, 2, 4, ... stages in a
    row about `modes`, as long as no more than `work` nodes have been looked at for one.

    Stages that look the same share their modes (bases aside), so a layer that is repeated is worked on once.
    """

    def __init__(
        self,
        problem: Problem,
        boundaries: Boundaries,
        positions: Indices,
        modes: int,
        work: int,
    ):
        self.problem = problem
        self.boundaries = boundaries
        self.starts = np.append(positions, problem.nodes)
        # The steps of stage s are those from steps[s + 1] to steps[s] - 1.
        self.steps = np.concatenate([[problem.steps], boundaries.step(positions[1:]), [0]])
        # For each stage the ways that begin with it, and how many stages they are of.
        self.ways: list[list[tuple[_Way, int]]] = [[] for _ in positions]
        known: dict[bytes, list[_Way]] = {}
        span = 1
        while span <= len(positions) and (span == 1 or work > 0):
            # Long ones overlap enough when they begin at every fourth of their length.
            for s in range(0, len(positions) - span + 1, max(1, span // 4)):
                inside, leaves = self._inside(s, s + span)
                key = _signature(inside, leaves)
                if key not in known:
                    known[key] = _ways(inside, leaves, modes)
                    work -= modes * inside.nodes
                self.ways[s].extend((way, span) for way in known[key])
            span *= 2

    def _inside(self, s: int, end: int) -> tuple[Problem, Flags]:
        """Stages s to `end` - 1 alone, without bases, what crosses their start being there; and which values leave."""
        problem = self.problem
        a, b = int(self.starts[s]), int(self.starts[end])
        first, last = int(self.steps[end]), int(self.steps[s])
        inside = Problem(
            problem.cost[a:b],
            problem.bytes[a:b],
            [[j - a for j in js if j >= a] for js in problem.operands[a:b]],
            [[j - a for j in js if j >= a] for js in problem.uses[first:last]],
            problem.transient[a:b],
            problem.repeatable[a:b],
            np.zeros(b - a, np.int64),
            np.zeros(last - first, np.int64),
            problem.offload_cost[a:b],
        )
        leaves = self.boundaries.end[a:b] >= b if b < problem.nodes else np.zeros(b - a, bool)
        return inside, leaves

    def chain(self) -> Chain:
        problem = self.problem
        waiting = self.boundaries.between(self.starts[:-1], problem.bytes)
        passing = self.boundaries.between(self.starts[:-1], problem.transient)
        bases = [int(problem.forward_base[a:b].max(initial=0)) for a, b in pairwise(self.starts.tolist())]
        # Where the backward of each stage begins; what has none begins with what comes after.
        firsts = np.minimum(self.steps[1:], problem.steps - 1)
        backward = problem.backward_base[firsts].tolist() if problem.steps else [0] * len(bases)
        alone = [ways[0][0].forward_peak for ways in self.ways]
        stages = []
        for s, ways in enumerate(self.ways):
            modes = []
            for way, span in ways:
                base = problem.backward_base[self.steps[s + span] : self.steps[s]]
                # No less than if the stages ran one after the other and the last one's backward followed.
                through = max((int(passing[s, j]) + alone[j] for j in range(s, s + span - 1)), default=0)
                peak = max(int((way.step_peaks + base).max(initial=0)), through + backward[s + span - 1])
                modes.append(
                    Mode(
                        way.bytes,
                        way.forward_cost,
                        way.backward_cost,
                        max(way.forward_peak, through),
                        peak,
                        span,
                        not len(way.keep),
                    )
                )
            stages.append(Stage(tuple(modes), bases[s], backward[s]))
        return Chain(stages, waiting, passing)

    def plan(self, moves: Iterable[Run | Back]) -> Plan:
        """The plan of the problem that `moves` of its chain describe."""
        recompute: list[list[int]] = [[] for _ in range(self.problem.steps)]
        for move in moves:
            if isinstance(move, Back):
                way, span = self.ways[move.stage][move.mode]
                start = int(self.starts[move.stage])
                first = self.steps[move.stage + span]
                for t, nodes in way.recompute:
                    recompute[first + t].extend([start + i for i in nodes])
            elif move.before is not None:
                recompute[self.steps[move.before + 1]].extend(self._forward(move))
        return Plan(tuple(map(tuple, recompute)))

    def _forward(self, run: Run) -> list[int]:
        """The nodes that `run` needs to run."""
        start, end = int(self.starts[run.start]), int(self.starts[run.stop])
        kept = start + self.ways[run.start][run.mode][0].keep
        wanted = {*self.boundaries.crossing(end).tolist(), *kept.tolist()}
        nodes = []
        for i in range(end - 1, start - 1, -1):
            if i in wanted:
                nodes.append(i)
                wanted.update(self.problem.operands[i])
        return nodes[::-1]


def _signature(inside: Problem, leaves: Flags) -> bytes:
    """Equal for stages between which nothing but names and bases differ."""
    arrays = [inside.cost, inside.bytes, inside.transient, inside.repeatable, leaves]
    for rows in (inside.operand_rows, inside.use_rows):
        arrays += [rows.starts, rows.values]
    return b"|".join(array.tobytes() for array in arrays)


def _ways(inside: Problem, leaves: Flags, modes: int) -> list[_Way]:
    """Nothing kept; and for few values all choices that some other does not beat, else the corners of the hull of bytes
    and seconds. What leaves the stages waits anyway.
    """
    nothing = _way(inside, leaves, np.zeros(inside.nodes, bool))
    if not len(inside.needed):
        return [nothing]
    free = replace(inside, bytes=np.where(leaves, 0, inside.bytes))
    nodes = movable(inside)
    # What is small is kept where it is of use, what leaves where it is needed.
    always = np.zeros(inside.nodes, bool)
    always[inside.needed] = True
    always &= leaves
    always[np.setdiff1d(inside.needed, nodes)] = True
    nodes = nodes[~always[nodes]]
    if 2 ** len(nodes) <= modes:
        choices = np.tile(always, (2 ** len(nodes), 1))
        choices[:, nodes] = np.arange(len(choices))[:, None] >> np.arange(len(nodes)) & 1
    else:
        hull = Hull(free, cuts=modes)
        between = hull.mixtures(_MIXTURES, both_ways=False, apart=_APART)
        choices = np.array([corner.keep for corner in (*hull.corners, *between)])
    ways = [_way(inside, leaves, keep) for keep in np.unique(choices, axis=0) if keep.any()]
    return [nothing, *_best(ways)]


def _best(ways: list[_Way]) -> list[_Way]:
    """The ways that no other one beats in bytes, seconds and peaks."""
    measures = [np.array([w.bytes, w.forward_cost, w.backward_cost, w.forward_peak, *w.step_peaks]) for w in ways]
    best: list[int] = []
    for w, measure in enumerate(measures):
        equal = (v for v in range(w) if (measures[v] == measure).all())
        beaten = any((other <= measure).all() and (other < measure).any() for other in measures)
        if not beaten and next(equal, None) is None:
            best.append(w)
    return [ways[w] for w in best]


def _way(inside: Problem, leaves: Flags, keep: Flags) -> _Way:
    kept = np.flatnonzero(keep)
    plan = lazily(inside, kept.tolist())
    timeline = simulate(inside, plan)
    peaks = np.zeros(inside.steps, np.int64)
    np.maximum.at(peaks, timeline.step[inside.nodes :], timeline.live[inside.nodes :])
    run = _ancestors(inside, keep | leaves)
    return _Way(
        kept,
        tuple((t, nodes) for t, nodes in enumerate(plan.recompute) if nodes),
        int(inside.bytes[keep & ~leaves].sum()),
        float(inside.cost[run].sum()),
        plan.cost(inside),
        _forward_peak(inside, run, keep | (leaves & keep.any()), keep | leaves),
        peaks,
    )


def _ancestors(inside: Problem, wanted: Flags) -> Flags:
    marks: list[bool] = wanted.tolist()
    for i in range(inside.nodes - 1, -1, -1):
        if marks[i]:
            for j in inside.operands[i]:
                marks[j] = True
    return np.array(marks, bool)


def _forward_peak(inside: Problem, run: Flags, waits: Flags, stays: Flags) -> int:
    """Bytes live at most while the nodes `run` run; values that stay are there to the end, those that wait in full."""
    n = inside.nodes
    rows = inside.operand_rows
    last = np.arange(n)
    np.maximum.at(last, rows.values, np.where(run[rows.rows], rows.rows, 0))
    last[stays] = n - 1
    sizes = np.where(run, np.where(waits, inside.bytes, inside.transient), 0)
    change = np.zeros(n + 1, np.int64)
    change[:n] += sizes
    np.subtract.at(change, last + 1, sizes)
    return int(np.cumsum(change).max(initial=0))
