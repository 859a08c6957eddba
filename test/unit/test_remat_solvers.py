"""Solvers of rematerialization, held to all plans of small problems."""

from __future__ import annotations

import itertools
import random

import numpy as np
import pytest

from zenith_mlir.remat.problem import Problem
from zenith_mlir.remat.schedule import IncompletePlan, Plan, lazily, simulate
from zenith_mlir.remat.solve import explore

pytestmark = pytest.mark.once

HEURISTICS = ["optimal", "chain", "cut", "sqrt", "greedy"]


def some_problem(seed: int, nodes: int, steps: int, *, fused: bool = True, pinned: bool = False) -> Problem:
    """A random program: each node reads a few just before it, each step a few anywhere."""
    r = random.Random(seed)
    sizes = [r.randint(1, 9) for _ in range(nodes)]
    return Problem.of(
        [r.randint(1, 9) for _ in range(nodes)],
        sizes,
        [sorted(r.sample(range(max(0, i - 3), i), r.randint(0 if i < 2 else 1, min(i, 2)))) for i in range(nodes)],
        [sorted(r.sample(range(nodes), r.randint(1, min(nodes, 2)))) for _ in range(steps)],
        transient=[r.choice([0, size]) if fused else size for size in sizes],
        repeatable=[not pinned or r.random() < 0.7 for _ in range(nodes)],
        forward_base=[r.randint(0, 3) for _ in range(nodes)],
        backward_base=[r.randint(0, 3) for _ in range(steps)],
        offload_cost=[r.randint(1, 9) for _ in range(nodes)],
    )


def all_plans(problem: Problem) -> list[Plan]:
    """Every plan that runs a node at most once before a step, in the order of the forward."""
    batches = [b for k in range(problem.nodes + 1) for b in itertools.combinations(range(problem.nodes), k)]
    return [Plan(plan) for plan in itertools.product(batches, repeat=problem.steps)]


def lazy_plans(problem: Problem) -> list[Plan]:
    """Every plan that keeps some values and computes the others again, each once."""
    keeps = itertools.product([False, True], repeat=problem.nodes)
    return [lazily(problem, [i for i, kept in enumerate(keep) if kept]) for keep in keeps]


def least_costs(problem: Problem, plans: list[Plan]) -> dict[int, float]:
    """The least cost of a plan for each peak that one has, by rising peak."""
    points = []
    for plan in plans:
        try:
            points.append((simulate(problem, plan).peak, plan.cost(problem)))
        except IncompletePlan:
            continue
    best: dict[int, float] = {}
    cheapest = np.inf
    for peak, cost in sorted(points):
        cheapest = min(cheapest, cost)
        best[peak] = cheapest
    return best


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("solver", ["milp", "cpsat"])
def test_the_referees_find_the_best_of_all_plans(solver, seed):
    pytest.importorskip("highspy" if solver == "milp" else "ortools")
    problem = some_problem(seed, 4, 3, pinned=seed == 3)
    best = least_costs(problem, all_plans(problem))
    solved = explore(problem, solver)
    for budget, cost in itertools.islice(best.items(), 0, None, 3):
        solution = solved.solve(budget)
        assert solution.cost == pytest.approx(cost)
        assert solution.lower_bound == pytest.approx(cost)
        assert simulate(problem, solution.plan).peak <= budget
