"""Minimum cuts with a price on bytes at each moment: transients priced where the schedule needs most."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from zenith_mlir.remat.closure import Closure
from zenith_mlir.remat.cut import Hull
from zenith_mlir.remat.frontier import Point
from zenith_mlir.remat.problem import Problem
from zenith_mlir.remat.schedule import lazily, simulate

__all__ = ["priced_plans"]

Seconds = NDArray[np.float64]
Indices = NDArray[np.int64]

# Moments within so much of the budget from the worst get dearer together.
_NEAR = 0.02


def priced_plans(hull: Hull, budgets: NDArray[np.float64], tries: int) -> Iterator[Point]:
    """Plans for each of `budgets`, `tries` of them, that cuts choose when the moments that need more than the budget
    get dearer and the others cheaper, from the prices at which `hull` meets the budget.

    A subgradient method (Held, Wolfe & Crowder 1974, "Validation of subgradient optimization") in which what a value
    costs while it waits is taken from the schedule of the cut before.
    """
    problem = hull.problem
    lowest = min((corner.price for corner in hull.corners if corner.price), default=0.0)
    if not lowest:
        return
    sweeps = _Sweeps(problem)
    for budget in np.maximum(budgets, 1.0).tolist():
        price = max(hull.corners, key=lambda corner: corner.value - corner.price * budget).price
        price = price or lowest * 1e-3
        # At first what counts is what waits between forward and backward.
        prices = np.zeros(problem.nodes + problem.steps)
        prices[problem.nodes - 1] = price
        again = np.zeros(problem.nodes, bool)
        for k in range(tries):
            point, again, live = sweeps.plan(prices, again)
            yield point
            excess = (live - budget) / budget
            worst = max(float(excess.max()) - _NEAR, 0.0)
            step = np.where(excess >= worst, excess, np.minimum(excess, 0.0))
            prices = np.maximum(prices + price / 2 / np.sqrt(k + 1) * step, 0.0)


class _Sweeps:
    """Moments as prices see them: the nodes of the forward, then each step with what runs again for it as one."""

    def __init__(self, problem: Problem):
        self.problem = problem
        self.closure = Closure(problem)
        uses = problem.use_rows
        self.first = np.full(problem.nodes, problem.steps)
        np.minimum.at(self.first, uses.values, uses.rows)
        self.last = np.zeros(problem.nodes, np.int64)
        np.maximum.at(self.last, uses.values, uses.rows)

    def times(self, again: NDArray[np.bool_]) -> tuple[Indices, Indices]:
        """The first and the last step before which each value is needed when `again` are computed again."""
        first: list[int] = self.first.tolist()
        last: list[int] = self.last.tolist()
        for i in np.flatnonzero(again)[::-1].tolist():
            step = first[i]
            for j in self.problem.operands[i]:
                first[j] = min(first[j], step)
                last[j] = max(last[j], step)
        return np.minimum(first, self.problem.steps - 1), np.array(last)

    def plan(self, prices: Seconds, again: NDArray[np.bool_]) -> tuple[Point, NDArray[np.bool_], Indices]:
        """The plan of the cheapest choice, what it computes again, and the most bytes live in each sweep; when values
        are needed is taken from the choice `again` before.
        """
        problem = self.problem
        n, m = problem.nodes, problem.steps
        need, last = self.times(again)
        forward = np.cumsum(prices[:n][::-1])[::-1]
        backward = np.append(0.0, np.cumsum(prices[n:]))
        keep = problem.bytes * (forward + backward[last + 1])
        waiting = problem.bytes * (backward[last + 1] - backward[need])
        choice = self.closure.choose(
            keep, problem.cost + np.where(last > need, waiting, problem.transient * prices[n + need])
        )
        plan = lazily(problem, np.flatnonzero(choice.keep).tolist())
        timeline = simulate(problem, plan)
        live = np.concatenate([timeline.live[:n], np.zeros(m, np.int64)])
        np.maximum.at(live, n + timeline.step[n:], timeline.live[n:])
        return Point(plan, plan.cost(problem), timeline.peak), choice.again, live
