"""The plans worth having: of two that fit a budget, the cheaper."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Protocol

from zenith_mlir.remat.problem import Problem
from zenith_mlir.remat.schedule import Plan, simulate

__all__ = ["Frontier", "Plans", "Point", "cheapest_fitting", "point_of"]


@dataclass(frozen=True)
class Point:
    """A plan, the seconds it adds, and the bytes that its schedule takes."""

    plan: Plan
    cost: float
    peak: int


def point_of(problem: Problem, plan: Plan) -> Point:
    """`plan`, measured."""
    return Point(plan, plan.cost(problem), simulate(problem, plan).peak)


class Plans(Protocol):
    """Plans of a problem that are known or can be found."""

    def best(self, budget_bytes: int) -> Point | None:
        """The cheapest of them that fits."""

    @property
    def minimum(self) -> int:
        """The fewest bytes that one of them needs."""


def cheapest_fitting(
    points: Callable[[int], Point], count: int, budget_bytes: int, beyond: int = 0, first: int = 0
) -> Point | None:
    """Of `count` plans by falling memory and rising cost one that fits, found by bisection; of those that are up to
    `beyond` cheaper, and not before the `first`, the cheapest that fits.

    Its cost is monotone in the budget even where memory does not fall all the way, if `first` falls with the budget:
    where two budgets part, the larger goes on among the cheaper plans and the smaller among the dearer.
    """
    low, high = 0, count
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if points(middle).peak <= budget_bytes else (middle + 1, high)
    for k in range(max(low - beyond, first), low):
        point = points(k)
        if point.peak <= budget_bytes:
            return point
    return points(low) if low < count else None


class Frontier:
    """The plans of a problem that no other known one beats in both cost and peak.

    The cheapest plan within a budget is monotone in the budget, since which plans are known does not depend on it.
    """

    def __init__(self, problem: Problem, plans: Iterable[Plan] = ()):
        self.problem = problem
        # By falling cost and rising peak.
        self.points: list[Point] = []
        for plan in plans:
            self.add(plan)

    def add(self, plan: Plan) -> Point:
        """Measure `plan`, remember it where it beats what is known."""
        point = point_of(self.problem, plan)
        self.keep(point)
        return point

    def keep(self, point: Point) -> None:
        """Remember `point` where it beats what is known."""
        best = self.best(point.peak)
        if best is None or point.cost < best.cost:
            self.points = [p for p in self.points if p.peak < point.peak or p.cost < point.cost]
            self.points.insert(bisect_right(self.points, point.peak, key=lambda p: p.peak), point)

    def best(self, budget_bytes: int) -> Point | None:
        """The cheapest plan that needs at most `budget_bytes`."""
        at = bisect_right(self.points, budget_bytes, key=lambda p: p.peak)
        return self.points[at - 1] if at else None

    @property
    def minimum(self) -> int:
        """The fewest bytes that a known plan needs."""
        return self.points[0].peak
