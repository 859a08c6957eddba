"""Local search: from known plans, by doing something else with one value."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np
from numpy.typing import NDArray

from zenith_mlir.remat.keep_sets import Indices, KeepSets
from zenith_mlir.remat.problem import Problem
from zenith_mlir.remat.schedule import Plan, lazily

__all__ = ["movable", "pareto_search", "searched_plans"]

_KEPT, _AWAY = 1, 2
_BATCH = 1024


def movable(problem: Problem) -> Indices:
    """The values for which keeping or not is a question: of use in the backward, of more than a ten thousandth of the
    residual bytes, computable again, and not better replaced by their only user, which takes no more.
    """
    rows = problem.operand_rows
    direct = np.zeros(problem.nodes, bool)
    direct[problem.needed] = True
    of_use: list[bool] = direct.tolist()
    for i in range(problem.nodes - 1, -1, -1):
        if of_use[i]:
            for j in problem.operands[i]:
                of_use[j] = True
    large = problem.bytes > problem.residual_bytes / 10_000
    users = np.bincount(rows.values, minlength=problem.nodes)
    user = np.zeros(problem.nodes, np.int64)
    user[rows.values] = rows.rows
    replaced = ~direct & (users == 1) & (problem.bytes[user] <= problem.bytes)
    return np.flatnonzero(np.array(of_use, bool) & problem.repeatable & large & ~replaced)


class _Front:
    """Plans that no other known one beats in both seconds and bytes, as rows of states of nodes."""

    def __init__(self, sets: KeepSets):
        self.sets = sets
        self.states = np.zeros((0, sets.problem.nodes), np.int8)
        self.cost = np.zeros(0)
        self.peak = np.zeros(0, np.int64)
        self.explored = np.zeros(0, bool)

    def add(self, states: NDArray[np.int8]) -> None:
        new_cost, new_peak = self.sets.evaluate((states == _KEPT).T, (states == _AWAY).T)
        states = np.concatenate([self.states, states])
        cost, peak = np.concatenate([self.cost, new_cost]), np.concatenate([self.peak, new_peak])
        explored = np.concatenate([self.explored, np.zeros(len(new_cost), bool)])
        order = np.lexsort((~explored, cost, peak))
        cheapest = np.minimum.accumulate(cost[order])
        chosen = order[cost[order] < np.append(np.inf, cheapest[:-1])]
        self.states, self.cost, self.peak, self.explored = states[chosen], cost[chosen], peak[chosen], explored[chosen]


def pareto_search(problem: Problem, seeds: NDArray[np.int8], evaluations: int, offload: bool) -> NDArray[np.int8]:
    """Plans that no single change improves in both seconds and peak, or as far as `evaluations` changed plans lead from
    `seeds`. Rows are plans: 0 for a value that is computed again, 1 kept, 2 on the host.

    Paquete, Chiarandini & Stützle 2004, "Pareto local optimum sets in the biobjective traveling salesman problem".
    """
    nodes = movable(problem)
    nodes = np.repeat(nodes, 2) if offload else nodes
    # The other states of each value.
    shift = np.tile([1, 2], len(nodes) // 2) if offload else np.ones(len(nodes), np.int64)
    count = 3 if offload else 2
    front = _Front(KeepSets(problem))
    front.add(seeds)
    # Which to try first where not all can be: any, and always the same.
    random = np.random.default_rng(0)
    at_once = max(1, _BATCH // max(len(nodes), 1))
    while evaluations >= len(nodes) > 0 and not front.explored.all():
        chosen = random.permutation(np.flatnonzero(~front.explored))[:at_once]
        front.explored[chosen] = True
        around = np.repeat(front.states[chosen], len(nodes), axis=0)
        changed = np.arange(len(around)), np.tile(nodes, len(chosen))
        around[changed] = (around[changed] + np.tile(shift, len(chosen))) % count
        front.add(around)
        evaluations -= len(around)
    return front.states


def states_of(problem: Problem, plan: Plan) -> NDArray[np.int8]:
    """What a plan does with each value, as a row: lazily, once, if at all."""
    states = np.full(problem.nodes, _KEPT, np.int8)
    for batch in plan.recompute:
        states[list(batch)] = 0
    states[list(plan.offload)] = _AWAY
    return states


def searched_plans(problem: Problem, known: Iterable[Plan], evaluations: int, offload: bool) -> Iterator[Plan]:
    """Plans that a local search finds around `known` ones."""
    if not len(movable(problem)):
        return
    seeds = np.array([states_of(problem, plan) for plan in known])
    for states in pareto_search(problem, seeds, evaluations, offload):
        yield lazily(problem, np.flatnonzero(states == _KEPT).tolist(), np.flatnonzero(states == _AWAY).tolist())
