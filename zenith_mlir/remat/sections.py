"""Minimum cuts of a program in sections: what crosses their boundaries is kept, the rest at one price of a byte."""

from __future__ import annotations

import numpy as np

from zenith_mlir.remat.boundaries import Boundaries
from zenith_mlir.remat.cut import Hull
from zenith_mlir.remat.frontier import Point, cheapest_fitting, point_of
from zenith_mlir.remat.schedule import lazily

__all__ = ["Sections"]

_PRICES = 2**16


class Sections:
    """Plans for `count` sections, one for each of many prices of a byte; a budget's is found by bisection.

    A section is computed again when the backward reaches it, so that what this needs beside what is kept is little.
    Many unlike layers leave no gap between the plans for one price and the next.
    """

    def __init__(self, hull: Hull, boundaries: Boundaries, count: int):
        self.hull = hull
        self.crossing = np.zeros(hull.problem.nodes, bool)
        for position in boundaries.choose(count, count)[1:].tolist():
            self.crossing[boundaries.crossing(position)] = True
        prices = [corner.price for corner in hull.corners if corner.price > 0]
        self.prices = np.geomspace(min(prices) / 4, max(prices), _PRICES) if prices else np.zeros(1)
        self._points: dict[int, Point] = {}

    def point(self, k: int) -> Point:
        """The plan for the k-th price."""
        if k not in self._points:
            problem = self.hull.problem
            choice = self.hull.at(float(self.prices[k]), self.crossing)
            keep = choice.keep | (self.crossing & ~choice.away)
            plan = lazily(problem, np.flatnonzero(keep).tolist(), np.flatnonzero(choice.away).tolist())
            self._points[k] = point_of(problem, plan)
        return self._points[k]

    def best(self, budget_bytes: int) -> Point | None:
        """The plan for the lowest price that fits."""
        return cheapest_fitting(self.point, len(self.prices), budget_bytes)

    @property
    def minimum(self) -> int:
        return self.point(len(self.prices) - 1).peak
