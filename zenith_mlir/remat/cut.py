"""Which values to keep, by a price on bytes: minimum cuts, the plans that they choose, and a lower bound."""

from __future__ import annotations

import heapq
from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from zenith_mlir.remat.closure import Closure
from zenith_mlir.remat.problem import Problem
from zenith_mlir.remat.schedule import Plan, lazily

__all__ = ["Corner", "Hull", "cut_plans"]

Flags = NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class Corner:
    """The cheapest choice at `price` seconds a byte: what is kept, what goes to the host (`away`), what is computed
    `again`; none of them what is not needed. No choice has less seconds + price * bytes than `value`.
    """

    price: float
    keep: Flags
    away: Flags
    again: Flags
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
        # By rising bytes.
        self.corners: list[Corner] = []
        if len(problem.needed):
            self._closure = Closure(problem)
            self._explore(cuts)
            self.corners.sort(key=lambda corner: (corner.bytes, corner.cost))

    def _explore(self, cuts: int) -> None:
        total = float(self.problem.cost.sum())
        size = float(max(self.problem.bytes[self.problem.needed].min(), 1))
        # Free bytes, and bytes too dear for any that need not be kept.
        ends = self.at(0.0), self.at(2 * total / size)
        self.corners += ends
        heap = [self._between(*ends, 0)]
        for serial in range(1, 2 * cuts, 2):
            if not heap:
                break
            *_, many, few = heapq.heappop(heap)
            if many.bytes <= few.bytes or few.cost <= many.cost:
                continue
            middle = self.at((few.cost - many.cost) / (many.bytes - few.bytes))
            self.corners.append(middle)
            if few.bytes < middle.bytes < many.bytes:
                heapq.heappush(heap, self._between(many, middle, serial))
                heapq.heappush(heap, self._between(middle, few, serial + 1))

    def _between(self, many: Corner, few: Corner, serial: int) -> tuple[float, int, Corner, Corner]:
        """An entry of the heap: first where there are most bytes and the cost changes most for its size."""
        drop = (few.cost - many.cost) / few.cost if few.cost > 0 else 0.0
        return -drop * (many.bytes - few.bytes), serial, many, few

    def at(self, price: float, paid: Flags | None = None) -> Corner:
        """The cheapest choice at `price` seconds a byte, where values that are `paid` wait for nothing."""
        problem = self.problem
        waiting = price * problem.bytes.astype(np.float64)
        if paid is not None:
            waiting[paid] = 0.0
        sent = problem.offload_cost if self.offload else np.full(problem.nodes, np.inf)
        choice = self._closure.choose(np.minimum(waiting, sent), problem.cost)
        away = choice.keep & (sent < waiting)
        keep = choice.keep & ~away
        cost = float(problem.cost[choice.again].sum() + problem.offload_cost[away].sum())
        return Corner(price, keep, away, choice.again, float(problem.bytes[keep].sum()), cost, choice.value)

    def lower_bound(self, budget_bytes: int, cuts: int = 0) -> float:
        """No plan whose schedule fits `budget_bytes` costs less, in seconds. Up to `cuts` more cuts look for the price
        that shows it best.
        """
        problem = self.problem
        if not self.corners:
            return 0.0
        room = float(budget_bytes - max(problem.forward_base[-1], problem.backward_base[0]))
        bound = max(0.0, *(corner.value - corner.price * room for corner in self.corners))
        at = bisect_right(self.corners, room, key=lambda corner: corner.bytes)
        if not 0 < at < len(self.corners):
            return bound
        few, many = self.corners[at - 1], self.corners[at]
        for _ in range(cuts):
            middle = self.at((few.cost - many.cost) / (many.bytes - few.bytes))
            bound = max(bound, middle.value - middle.price * room)
            if not few.bytes < middle.bytes < many.bytes:
                break
            few, many = (middle, many) if middle.bytes <= room else (few, middle)
        return bound

    def mixtures(self, most: int, *, both_ways: bool = True, apart: float = 0.0) -> Iterator[Corner]:
        """Choices between neighbouring corners that are `apart` by so much of the bytes, at most `most` for each way
        from one to the other.

        Where two corners differ they differ in parts of the graph that do not touch. Each may be as in the one or the
        other, and seconds and bytes add up. Parts are taken over from the corner with more bytes one by one, from the
        end of the program and, with `both_ways`, from its beginning.
        """
        least = apart * self.corners[-1].bytes if self.corners else 0.0
        for few, many in pairwise(self.corners):
            if many.bytes - few.bytes < least:
                continue
            parts = self._parts(few, many)
            for order in (parts[::-1], parts)[: 1 + both_ways]:
                for count in np.unique(np.linspace(0, len(order), most + 2).astype(int))[1:-1].tolist():
                    swapped = np.zeros(self.problem.nodes, bool)
                    swapped[np.concatenate(order[:count])] = True
                    mixed = {name: np.where(swapped, getattr(many, name), getattr(few, name)) for name in _STATES}
                    yield replace(few, **mixed)

    def _parts(self, one: Corner, other: Corner) -> list[NDArray[np.int64]]:
        from scipy.sparse import csr_array
        from scipy.sparse.csgraph import connected_components

        n, rows = self.problem.nodes, self.problem.operand_rows
        differs = np.zeros(n, bool)
        for name in _STATES:
            differs |= getattr(one, name) != getattr(other, name)
        operands, users = rows.values, rows.rows
        inside = differs[operands] & differs[users]
        graph = csr_array((np.ones(inside.sum()), (operands[inside], users[inside])), shape=(n, n))
        label = connected_components(graph, directed=False)[1]
        nodes = np.flatnonzero(differs)
        order = nodes[np.argsort(label[nodes], kind="stable")]
        parts = np.split(order, np.flatnonzero(np.diff(label[order])) + 1)
        return sorted((part for part in parts if len(part)), key=lambda part: int(part[0]))


_STATES = ("keep", "away", "again")


def cut_plans(hull: Hull, most: int) -> Iterator[Plan]:
    """The plans of the corners of `hull`, and `most` and fewer between each two and either way."""
    for corner in (*hull.corners, *hull.mixtures(most)):
        yield corner.plan(hull.problem)
