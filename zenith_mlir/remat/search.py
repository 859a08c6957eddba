"""Local search for keep sets: from known plans, by keeping one value more or one less."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from zenith_mlir.remat.keep_sets import Flags, Indices, KeepSets
from zenith_mlir.remat.problem import Problem

__all__ = ["movable", "pareto_search"]

_BATCH = 1024


def movable(problem: Problem) -> Indices:
    """The values for which keeping or not is a question: of use in the backward, of more than a ten thousandth of the
    residual bytes, computable again, and not better replaced by their only user, which takes no more.
    """
    keep = KeepSets(problem)
    need, _ = keep.times(np.zeros((problem.nodes, 1), bool))
    direct = np.zeros(problem.nodes, bool)
    direct[problem.needed] = True
    chosen = (need[:, 0] < problem.steps) & problem.repeatable
    chosen &= problem.bytes > problem.residual_bytes / 10_000
    for j in np.flatnonzero(chosen & ~direct).tolist():
        if len(keep.users[j]) == 1 and problem.bytes[keep.users[j][0]] <= problem.bytes[j]:
            chosen[j] = False
    return np.flatnonzero(chosen)


class _Front:
    """Keep sets, rows here, that no other known one beats by more than `slack` in cost at no more bytes."""

    def __init__(self, nodes: int, slack: float):
        self.slack = slack
        self.keep = np.zeros((0, nodes), bool)
        self.cost = np.zeros(0)
        self.peak = np.zeros(0, np.int64)
        self.explored = np.zeros(0, bool)
        self.excess = np.zeros(0)

    def add(self, keep: Flags, cost: NDArray[np.float64], peak: Indices) -> None:
        keep = np.concatenate([self.keep, keep])
        cost, peak = np.concatenate([self.cost, cost]), np.concatenate([self.peak, peak])
        explored = np.concatenate([self.explored, np.zeros(len(keep) - len(self.explored), bool)])
        order = np.lexsort((~explored, cost, peak))
        cheapest = np.minimum.accumulate(cost[order])
        before = np.append(np.inf, cheapest[:-1])
        good = cost[order] < before if not self.slack else cost[order] <= before * (1 + self.slack)
        # Plans of the same cost and peak are as good as one.
        same = (np.diff(cost[order], prepend=-1) == 0) & (np.diff(peak[order], prepend=-1) == 0)
        chosen = order[good & ~same]
        self.keep, self.cost, self.peak = keep[chosen], cost[chosen], peak[chosen]
        self.explored = explored[chosen]
        self.excess = cost[chosen] / np.maximum(np.minimum.accumulate(cost[chosen]), 1e-300)

    def next(self, count: int) -> Indices:
        """The unexplored ones nearest to the best."""
        unexplored = np.flatnonzero(~self.explored)
        return unexplored[np.argsort(self.excess[unexplored], kind="stable")[:count]]


def pareto_search(problem: Problem, seeds: Flags, evaluations: int, slack: float = 0.0) -> Flags:
    """Keep sets that no single change improves in both seconds and peak, or as far as so many `evaluations` of changed
    plans lead from `seeds`; both of shape (nodes, sets).

    Paquete, Chiarandini & Stützle 2004, "Pareto local optimum sets in the biobjective traveling salesman problem".
    """
    sets = KeepSets(problem)
    nodes = movable(problem)
    front = _Front(problem.nodes, slack)
    front.add(seeds.T, *sets.evaluate(seeds))
    at_once = max(1, _BATCH // max(len(nodes), 1))
    while evaluations > 0 and len(nodes) and not front.explored.all():
        chosen = front.next(at_once)
        front.explored[chosen] = True
        around = np.repeat(front.keep[chosen], len(nodes), axis=0)
        around[np.arange(len(around)), np.tile(nodes, len(chosen))] ^= True
        front.add(around, *sets.evaluate(around.T))
        evaluations -= len(around)
    return front.keep.T
