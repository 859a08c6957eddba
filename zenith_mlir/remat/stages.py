"""A problem as a chain of stages, each with the modes that minimum cuts inside of it find, and plans of the chain as plans
of the problem.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from zenith_mlir.remat.boundaries import Boundaries
from zenith_mlir.remat.chain import Back, Chain, Mode, Run, Stage
from zenith_mlir.remat.cut import Hull
from zenith_mlir.remat.problem import Problem
from zenith_mlir.remat.ragged import Ragged
from zenith_mlir.remat.schedule import Plan, lazily, simulate

__all__ = ["Stages"]

Indices = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class _Way:
    """A mode of a stage, by nodes counted from its start; `step_peaks` are the bytes live in each step without base."""

    keep: Indices
    run: NDArray[np.bool_]
    recompute: tuple[tuple[int, ...], ...]
    bytes: int
    backward_cost: float
    forward_peak: int
    step_peaks: Indices


class Stages:
    """The stages of `problem` between `positions`, which start with 0, and their modes, at most `modes` and one.

    Stages that look the same share their modes (bases aside), so a layer that is repeated is worked on once.
    """

    def __init__(self, problem: Problem, boundaries: Boundaries, positions: Indices, modes: int):
        self.problem = problem
        self.boundaries = boundaries
        self.starts = positions
        self.stops = np.append(positions[1:], problem.nodes)
        # The steps of stage s are first_step[s] to last_step[s] - 1.
        self.first_step = np.append(boundaries.step(positions[1:]), 0)
        self.last_step = np.append(problem.steps, self.first_step[:-1])
        self.modes = modes
        known: dict[bytes, list[_Way]] = {}
        self.ways: list[list[_Way]] = []
        for s in range(len(positions)):
            inside, leaves = self._inside(s)
            key = _signature(inside, leaves)
            if key not in known:
                known[key] = _ways(inside, leaves, modes)
            self.ways.append(known[key])

    def _inside(self, s: int) -> tuple[Problem, NDArray[np.bool_]]:
        """Stage s alone, what crosses its start being there, without bases; and which of its values leave it."""
        problem = self.problem
        a, b = int(self.starts[s]), int(self.stops[s])
        first, last = int(self.first_step[s]), int(self.last_step[s])
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
        stages = []
        for s, ways in enumerate(self.ways):
            cost = problem.cost[self.starts[s] : self.stops[s]]
            base = problem.backward_base[self.first_step[s] : self.last_step[s]]
            modes = tuple(
                Mode(
                    way.bytes,
                    float(cost[way.run].sum()),
                    way.backward_cost,
                    way.forward_peak,
                    int((way.step_peaks + base).max(initial=0)),
                )
                for way in ways
            )
            forward = problem.forward_base[self.starts[s] : self.stops[s]]
            stages.append(Stage(modes, int(forward.max(initial=0)), int(base[:1].sum())))
        waiting = self.boundaries.between(self.starts, problem.bytes)
        return Chain(stages, waiting, self.boundaries.between(self.starts, problem.transient))

    def plan(self, moves: Iterable[Run | Back]) -> Plan:
        """The plan of the problem that `moves` of its chain describe."""
        recompute: list[list[int]] = [[] for _ in range(self.problem.steps)]
        for move in moves:
            if isinstance(move, Back):
                way, start = self.ways[move.stage][move.mode], int(self.starts[move.stage])
                for batch, nodes in zip(recompute[self.first_step[move.stage] :], way.recompute, strict=False):
                    batch.extend(start + i for i in nodes)
            elif move.before is not None:
                recompute[self.first_step[move.before]].extend(self._forward(move))
        return Plan(tuple(map(tuple, recompute)))

    def _forward(self, run: Run) -> list[int]:
        """The nodes that `run` needs to run."""
        start, end = int(self.starts[run.start]), int(self.starts[run.stop])
        kept = start + self.ways[run.start][run.mode].keep
        wanted = {*self.boundaries.crossing(end).tolist(), *kept.tolist()}
        nodes = []
        for i in range(end - 1, start - 1, -1):
            if i in wanted:
                nodes.append(i)
                wanted.update(self.problem.operands[i])
        return nodes[::-1]


def _signature(inside: Problem, leaves: NDArray[np.bool_]) -> bytes:
    """Equal for stages between which nothing but names and bases differ."""
    arrays = [inside.cost, inside.bytes, inside.transient, inside.repeatable, leaves]
    for rows in (inside.operand_rows, inside.use_rows):
        arrays += [rows.starts, rows.values]
    return b"|".join(array.tobytes() for array in arrays)


def _ways(inside: Problem, leaves: NDArray[np.bool_], modes: int) -> list[_Way]:
    """Nothing kept, and the corners of the hull of bytes and seconds; what leaves the stage waits anyway."""
    choices = [np.zeros(inside.nodes, bool)]
    free = replace(inside, bytes=np.where(leaves, 0, inside.bytes))
    for corner in Hull(free, cuts=modes).corners:
        if not any(np.array_equal(corner.keep, known) for known in choices):
            choices.append(corner.keep)
    return [_way(inside, leaves, keep) for keep in choices]


def _way(inside: Problem, leaves: NDArray[np.bool_], keep: NDArray[np.bool_]) -> _Way:
    kept = np.flatnonzero(keep)
    plan = lazily(inside, kept.tolist())
    peaks = np.zeros(inside.steps, np.int64)
    timeline = simulate(inside, plan)
    np.maximum.at(peaks, timeline.step[inside.nodes :], timeline.live[inside.nodes :])
    run = _ancestors(inside, keep | leaves)
    peak = _forward_peak(inside, run, keep | (leaves & keep.any()), keep | leaves)
    return _Way(kept, run, plan.recompute, int(inside.bytes[keep & ~leaves].sum()), plan.cost(inside), peak, peaks)


def _ancestors(inside: Problem, wanted: NDArray[np.bool_]) -> NDArray[np.bool_]:
    marks: list[bool] = wanted.tolist()
    for i in range(inside.nodes - 1, -1, -1):
        if marks[i]:
            for j in inside.operands[i]:
                marks[j] = True
    return np.array(marks, bool)


def _forward_peak(inside: Problem, run: NDArray[np.bool_], waits: NDArray[np.bool_], stays: NDArray[np.bool_]) -> int:
    """Bytes live at most while the nodes `run` run; values that stay are there to the end, those that wait in full."""
    n = inside.nodes
    rows: Ragged = inside.operand_rows
    last = np.arange(n)
    np.maximum.at(last, rows.values, np.where(run[rows.rows], rows.rows, 0))
    last[stays] = n - 1
    sizes = np.where(run, np.where(waits, inside.bytes, inside.transient), 0)
    change = np.zeros(n + 1, np.int64)
    change[:n] += sizes
    np.subtract.at(change, last + 1, sizes)
    return int(np.cumsum(change).max(initial=0))
