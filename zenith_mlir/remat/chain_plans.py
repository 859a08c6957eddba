"""Plans of a problem from the dynamic program over its stages."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from zenith_mlir.remat.boundaries import Boundaries
from zenith_mlir.remat.chain_tables import ChainTables
from zenith_mlir.remat.frontier import Point, cheapest_fitting, point_of
from zenith_mlir.remat.pinned import pinned, without
from zenith_mlir.remat.problem import Problem
from zenith_mlir.remat.schedule import Plan, keep_all, simulate, useful
from zenith_mlir.remat.stages import Stages

__all__ = ["ChainPlans"]

# All the stages that a problem has, or where these are more than the first number, the second of much the same size.
_STAGES = 128, 64
_MODES = 16
_WORK = 700_000
# The table of a chain has at most so many numbers, and no more slots than help.
_NUMBERS = 2**23
_SLOTS = 2000
# Rounded to slots, memory falls only roughly from plan to plan: where bisection ends, cheaper plans are tried that
# should need little more than the budget, as many as make so many events, and no less than a few.
_SURPLUS = 0.02
_BEYOND_WORK, _BEYOND = 100_000, 8


class ChainPlans:
    """A plan for each amount of memory that the chain of a problem's stages can use."""

    def __init__(self, problem: Problem):
        self.problem = problem
        self.kept = pinned(problem)
        rest = without(problem, self.kept)
        boundaries = Boundaries(rest)
        positions = boundaries.choose(*_STAGES)
        self.stages = Stages(rest, boundaries, positions, _MODES, _WORK)
        slots = min(_SLOTS, _NUMBERS // len(positions) ** 2)
        self.slot_bytes = max(1, -(-simulate(rest, keep_all(rest)).peak // slots))
        self.tables = ChainTables(self.stages.chain(), slots, self.slot_bytes)
        costs = self.tables.cost
        # The memories with which plans get cheaper, the least first.
        self.slots = np.flatnonzero(np.isfinite(costs) & (costs < np.append(np.inf, costs[:-1])))
        self._points: dict[int, Point] = {}

    def point(self, slots: int) -> Point:
        """The plan for so many slots of memory."""
        if slots not in self._points:
            plan = self.stages.plan(self.tables.moves(slots))
            if self.kept.any():
                plan = Plan(tuple(tuple(i for i in batch if not self.kept[i]) for batch in plan.recompute))
            self._points[slots] = point_of(self.problem, useful(self.problem, plan))
        return self._points[slots]

    def best(self, budget_bytes: int) -> Point | None:
        """The plan with most memory that fits, as simulated."""
        slots = self.slots[::-1].tolist()
        beyond = max(_BEYOND, _BEYOND_WORK // (self.problem.nodes + self.problem.steps + 1))
        hopeless = int((self.slots > budget_bytes / self.slot_bytes * (1 + _SURPLUS) + 1).sum())
        return cheapest_fitting(lambda k: self.point(slots[k]), len(slots), budget_bytes, beyond, hopeless)

    def spread(self, count: int) -> Iterator[Point]:
        """The plans for `count` memories from the least to the most."""
        for k in np.unique(np.linspace(0, len(self.slots) - 1, count).astype(int)).tolist():
            yield self.point(int(self.slots[k]))

    @property
    def minimum(self) -> int:
        return self.point(int(self.slots[0])).peak
