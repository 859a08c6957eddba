"""Which values to keep, by a price on bytes: minimum cuts, the plans that they choose, and a lower bound."""

from __future__ import annotations

import heapq
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from zenith_mlir.remat.closure import Closure
from zenith_mlir.remat.problem import Problem
from zenith_mlir.remat.schedule import Plan, lazily

__all__ = ["Corner", "Hull", "cut_plans"]


@dataclass(frozen=True, eq=False)
class Corner:
    """The cheapest choice at `price` seconds a byte. No choice has less seconds + price * bytes than `value`."""

    price: float
    keep: NDArray[np.bool_]
    away: NDArray[np.bool_]
    bytes: float
    cost: float
    value: float

    def plan(self, problem: Problem) -> Plan:
        return lazily(problem, np.flatnonzero(self.keep).tolist(), np.flatnonzero(self.away).tolist())


class Hull:
    """The choices that are cheapest at some price of a byte: the lower convex hull of (bytes kept, seconds added).

    The bound is Lagrange's. Whatever a plan does, a value that is needed after the forward waits there, and all that
    wait fit beside what else is live at that moment, or it is computed or fetched at least once more. So for any price
    p, cost >= min over choices of (seconds + p bytes) - p room: for all plans, also those that recompute a value twice.
    """

    def __init__(self, problem: Problem, *, offload: bool = False, cuts: int = 24):
        self.problem = problem
        self.offload = offload
        self.corners: list[Corner] = []
        self._closure = Closure(problem)
        if len(problem.needed):
            self._explore(cuts)

    def _explore(self, cuts: int) -> None:
        total = float(self.problem.cost.sum())
        size = float(max(self.problem.bytes[self.problem.needed].min(), 1))
        # Free bytes, and bytes too dear for any that need not be kept.
        ends = self._corner(0.0), self._corner(2 * total / size)
        heap = [self._between(*ends, 0)]
        for serial in range(1, 2 * cuts, 2):
            if not heap:
                break
            *_, few, many = heapq.heappop(heap)
            if many.bytes <= few.bytes or few.cost <= many.cost:
                continue
            middle = self._corner((few.cost - many.cost) / (many.bytes - few.bytes))
            if few.bytes < middle.bytes < many.bytes:
                heapq.heappush(heap, self._between(many, middle, serial))
                heapq.heappush(heap, self._between(middle, few, serial + 1))

    def _between(self, many: Corner, few: Corner, serial: int) -> tuple[float, int, Corner, Corner]:
        """An entry of the heap: first where there are most bytes and the cost changes most for its size."""
        drop = (few.cost - many.cost) / few.cost if few.cost > 0 else 0.0
        return -drop * (many.bytes - few.bytes), serial, few, many

    def _corner(self, price: float) -> Corner:
        problem = self.problem
        waiting = price * problem.bytes.astype(np.float64)
        sent = problem.offload_cost if self.offload else np.full(problem.nodes, np.inf)
        choice = self._closure.choose(np.minimum(waiting, sent), problem.cost)
        away = choice.keep & (sent < waiting)
        keep = choice.keep & ~away
        cost = float(problem.cost[choice.again].sum() + problem.offload_cost[away].sum())
        corner = Corner(price, keep, away, float(problem.bytes[keep].sum()), cost, choice.value)
        self.corners.append(corner)
        return corner

    def lower_bound(self, budget_bytes: int) -> float:
        """No plan whose schedule fits `budget_bytes` costs less, in seconds."""
        problem = self.problem
        if not self.corners or not problem.nodes:
            return 0.0
        room = budget_bytes - max(problem.forward_base[-1], problem.backward_base[0])
        return max(0.0, *(corner.value - corner.price * float(room) for corner in self.corners))


def cut_plans(hull: Hull) -> Iterator[Plan]:
    """The plans of the corners of `hull`."""
    for corner in hull.corners:
        yield corner.plan(hull.problem)
