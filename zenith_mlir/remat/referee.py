"""Solvers that answer for one budget at a time, and can say that there is nothing better."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from zenith_mlir.remat.frontier import Plans, Point, point_of
from zenith_mlir.remat.problem import Problem
from zenith_mlir.remat.schedule import Plan

__all__ = ["Referee", "Result", "Search"]


@dataclass(frozen=True, eq=False)
class Result:
    """`plan` is None where none was found in time. No plan of the class that was searched costs less than
    `lower_bound`; `proven` says that the plan is optimal there, or that there is none.
    """

    plan: Plan | None
    lower_bound: float
    proven: bool


class Search(Protocol):
    """Looks for a plan within a budget, beginning with `start`."""

    def __call__(
        self,
        problem: Problem,
        budget_bytes: int,
        start: Plan | None = None,
        *,
        offload: bool = False,
        time_limit: float | None = None,
    ) -> Result: ...


class Referee:
    """What `search` finds within each budget it is asked for, beginning with the best of `first`."""

    def __init__(self, problem: Problem, first: Plans, search: Search, *, offload: bool, time_limit: float | None):
        self.problem = problem
        self.first = first
        self._search = search
        self._offload = offload
        self._time_limit = time_limit
        self._results: dict[int, Result] = {}

    def result(self, budget_bytes: int) -> Result:
        if budget_bytes not in self._results:
            start = self.first.best(budget_bytes)
            self._results[budget_bytes] = self._search(
                self.problem,
                budget_bytes,
                start.plan if start else None,
                offload=self._offload,
                time_limit=self._time_limit,
            )
        return self._results[budget_bytes]

    def best(self, budget_bytes: int) -> Point | None:
        """The plan of the search, or what it began with where that is better."""
        plan, start = self.result(budget_bytes).plan, self.first.best(budget_bytes)
        found = point_of(self.problem, plan) if plan else None
        points = [point for point in (found, start) if point and point.peak <= budget_bytes]
        return min(points, key=lambda point: point.cost, default=None)

    @property
    def minimum(self) -> int:
        return self.first.minimum

    def lower_bound(self, budget_bytes: int) -> float:
        """No plan that runs each node at most once before a step, and in order, costs less."""
        return self.result(budget_bytes).lower_bound
