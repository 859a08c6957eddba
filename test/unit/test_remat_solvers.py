"""Solvers of rematerialization, held to all plans of small problems."""

from __future__ import annotations

import itertools
import random
import sys
from collections.abc import Iterable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from zenith_mlir.errors import OptionError, ZenithError
from zenith_mlir.remat.cut import Hull
from zenith_mlir.remat.frontier import Frontier
from zenith_mlir.remat.keep_sets import KeepSets
from zenith_mlir.remat.milp import solve_milp
from zenith_mlir.remat.pinned import pinned, without
from zenith_mlir.remat.problem import Problem
from zenith_mlir.remat.program import is_too_large
from zenith_mlir.remat.refine import refine
from zenith_mlir.remat.relaxation import peak_moments, relaxed_bound
from zenith_mlir.remat.schedule import IncompletePlan, Plan, keep_all, lazily, simulate, useful
from zenith_mlir.remat.search import movable
from zenith_mlir.remat.solve import Infeasible, explore, solve

pytestmark = pytest.mark.once
pytest.importorskip("scipy")

HEURISTICS = ["optimal", "chain", "cut", "sqrt", "greedy"]


def some_problem(seed: int, nodes: int, steps: int, *, pinned: bool = False) -> Problem:
    """A random program: each node reads a few just before it, each step a few anywhere."""
    r = random.Random(seed)
    sizes = [r.randint(1, 9) for _ in range(nodes)]
    return Problem.of(
        [r.randint(1, 9) for _ in range(nodes)],
        sizes,
        [sorted(r.sample(range(max(0, i - 3), i), r.randint(min(i, 1), min(i, 2)))) for i in range(nodes)],
        [sorted(r.sample(range(nodes), r.randint(1, min(nodes, 2)))) for _ in range(steps)],
        transient=[r.choice([0, size]) for size in sizes],
        repeatable=[not pinned or r.random() < 0.7 for _ in range(nodes)],
        forward_base=[r.randint(0, 3) for _ in range(nodes)],
        backward_base=[r.randint(0, 3) for _ in range(steps)],
        offload_cost=[r.choice([r.randint(1, 9), np.inf]) for _ in range(nodes)],
    )


def layers(count: int, width: int = 3) -> Problem:
    """Layers with a residual connection: an expensive value, cheap ones made of it, and a sum; a step for each."""
    cost: list[float] = []
    sizes: list[int] = []
    operands: list[list[int]] = []
    uses: list[list[int]] = []

    def node(seconds: float, size: int, *reads: int) -> int:
        cost.append(seconds)
        sizes.append(size)
        operands.append([j for j in reads if j >= 0])
        return len(cost) - 1

    x = -1
    for _ in range(count):
        y = node(10.0, 4, x)
        inner = [y]
        for k in range(width):
            inner.append(node(0.5 + k / 10, 8, inner[-1]))
        x = node(0.2, 4, x, inner[-1])
        uses[:0] = [[x], *([i] for i in reversed(inner))]
    return Problem.of(cost, sizes, operands, uses)


def all_plans(problem: Problem) -> Iterable[Plan]:
    """Every plan that runs a node at most once before a step, in the order of the forward."""
    batches = [b for k in range(problem.nodes + 1) for b in itertools.combinations(range(problem.nodes), k)]
    return map(Plan, itertools.product(batches, repeat=problem.steps))


def lazy_plans(problem: Problem, *, offload: bool = False) -> Iterable[Plan]:
    """Every plan that keeps some values and computes or fetches the others, each once."""
    for states in itertools.product(range(3 if offload else 2), repeat=problem.nodes):
        away = [i for i, state in enumerate(states) if state == 2]
        if all(np.isfinite(problem.offload_cost[i]) for i in away):
            try:
                yield lazily(problem, [i for i, state in enumerate(states) if state == 1], away)
            except IncompletePlan:
                continue


def least_costs(problem: Problem, plans: Iterable[Plan]) -> dict[int, float]:
    """The least cost of a plan for each peak that one has, by rising peak."""
    points = []
    for plan in plans:
        try:
            points.append((simulate(problem, plan).peak, plan.cost(problem)))
        except IncompletePlan:
            continue
    costs = np.minimum.accumulate([cost for _, cost in sorted(points)])
    return dict(zip([peak for peak, _ in sorted(points)], costs.tolist(), strict=True))


@pytest.fixture(scope="module", params=[(0, False), (3, True)])
def small(request: pytest.FixtureRequest) -> tuple[Problem, dict[int, float]]:
    """A problem, and what all of its plans can do."""
    seed, has_pinned = request.param
    problem = some_problem(seed, 4, 3, pinned=has_pinned)
    return problem, least_costs(problem, all_plans(problem))


def test_milp_finds_the_best_of_all_plans(small):
    pytest.importorskip("highspy")
    problem, best = small
    solved = explore(problem, "milp")
    for budget, cost in itertools.islice(best.items(), 0, None, 3):
        solution = solved.solve(budget)
        assert solution.cost == pytest.approx(cost)
        assert solution.gap < 1e-4
        assert simulate(problem, solution.plan).peak <= budget


def test_cpsat_finds_the_best_of_all_plans():
    pytest.importorskip("ortools")
    problem = some_problem(1, 3, 2)
    budget, cost = list(least_costs(problem, all_plans(problem)).items())[1]
    solution = solve(problem, budget, "cpsat")
    assert solution.cost == pytest.approx(cost)
    assert solution.gap < 1e-4


def test_milp_begins_with_plans_that_run_what_nobody_needs():
    pytest.importorskip("highspy")
    problem = Problem.of([1, 2], [4, 4], [[], [0]], [[1], [0]])
    wasteful = Plan(((), (0, 1)))
    assert simulate(problem, wasteful).peak == 8
    result = solve_milp(problem, 8, wasteful)
    assert result.proven and result.plan == keep_all(problem)


@pytest.mark.filterwarnings("error")
def test_milp_of_values_without_bytes():
    pytest.importorskip("highspy")
    problem = Problem.of([1, 3, 1], [0, 8, 8], [[], [0], [1]], [[2], [0, 1]])
    assert solve(problem, 16, "milp").cost == 0
    weightless = Problem.of([1, 1], [0, 0], [[], [0]], [[1], [0]])
    assert solve_milp(weightless, 0).plan == keep_all(weightless)


@pytest.mark.parametrize("solver", ["milp", "cpsat"])
def test_referees_leave_large_problems_to_optimal(solver, monkeypatch):
    pytest.importorskip("highspy" if solver == "milp" else "ortools")
    monkeypatch.setattr("zenith_mlir.remat.program._LARGEST", 50)
    problem = some_problem(7, 5, 4)
    assert is_too_large(problem)
    best = explore(problem)
    assert solve(problem, best.minimum, solver).cost == best.solve(best.minimum).cost


def test_referees_send_values_to_the_host_where_that_is_cheaper():
    pytest.importorskip("highspy")
    problem = some_problem(5, 4, 2)
    solved = explore(problem, "milp", offload=True)
    for budget, cost in least_costs(problem, lazy_plans(problem, offload=True)).items():
        assert solved.solve(budget).cost <= cost + 1e-9


def test_no_plan_beats_the_bounds(small):
    problem, best = small
    hull = Hull(problem)
    for budget, cost in best.items():
        assert hull.lower_bound(budget) <= cost + 1e-9
        assert relaxed_bound(problem, budget, range(problem.steps)) <= cost + 1e-9


def test_the_bound_is_reached_where_moments_decide():
    # Two values of 10 bytes that wait, beside 5 bytes of something else in the first step: one of them has to go.
    problem = Problem.of([7, 3], [10, 10], [[], []], [[], [0], [1]], backward_base=[5, 0, 0])
    assert relaxed_bound(problem, 24, [0]) == pytest.approx(3, rel=1e-4)
    assert solve(problem, 24).cost == 3
    assert relaxed_bound(problem, 25, [0]) == 0
    # The same later in the backward: nobody would know without looking there.
    problem = Problem.of([7, 3], [10, 10], [[], []], [[], [], [0], [1]], backward_base=[0, 5, 0, 0])
    assert relaxed_bound(problem, 24, [0]) == 0
    moments = peak_moments(problem, keep_all(problem), 2)
    assert relaxed_bound(problem, 24, moments) == pytest.approx(3, rel=1e-4)


@pytest.mark.parametrize("seed", range(4))
def test_optimal_is_no_dearer_than_any_lazy_plan(seed):
    problem = some_problem(seed, 8, 4, pinned=seed == 3)
    solved = explore(problem)
    for budget, cost in least_costs(problem, lazy_plans(problem)).items():
        assert solved.solve(budget).cost <= cost + 1e-9


@pytest.mark.parametrize("seed", range(2))
def test_optimal_offloads_as_well_as_any_lazy_plan(seed):
    problem = some_problem(seed, 6, 3)
    solved = explore(problem, offload=True)
    for budget, cost in least_costs(problem, lazy_plans(problem, offload=True)).items():
        assert solved.solve(budget).cost <= cost + 1e-9


@given(st.integers(0, 10**6), st.integers(1, 9), st.integers(1, 5), st.booleans(), st.floats(0, 1))
@settings(max_examples=5, deadline=None, derandomize=True)
def test_solutions_are_what_they_say(seed, nodes, steps, has_pinned, share):
    problem = some_problem(seed, nodes, steps, pinned=has_pinned)
    full = simulate(problem, keep_all(problem)).peak
    for solver in HEURISTICS:
        solved = explore(problem, solver)
        budget = round(solved.minimum + share * (full - solved.minimum))
        solution = solved.solve(budget)
        timeline = simulate(problem, solution.plan)
        assert timeline.peak == solution.peak <= budget
        assert solution.plan.cost(problem) == pytest.approx(solution.cost)
        assert 0 <= solution.lower_bound <= solution.cost
        assert 0 <= solution.gap <= 1
        assert solved.solve(full).cost == 0
        with pytest.raises(Infeasible) as error:
            solved.solve(solved.minimum - 1)
        assert solved.solve(error.value.minimum).peak <= error.value.minimum


@pytest.mark.parametrize("solver", HEURISTICS)
@pytest.mark.parametrize("problem", [layers(4), some_problem(7, 12, 7)], ids=["layers", "random"])
def test_cost_is_monotone_in_the_budget(solver, problem):
    solved = explore(problem, solver)
    budgets = range(solved.minimum, simulate(problem, keep_all(problem)).peak + 1)
    costs = [solved.solve(budget).cost for budget in budgets]
    assert costs == sorted(costs, reverse=True)
    assert costs[0] > costs[-1] == 0


def test_the_same_plan_whatever_was_asked_before():
    problem = layers(4)
    budget = simulate(problem, keep_all(problem)).peak // 2
    solved = explore(problem)
    solved.solve(solved.minimum)
    assert solved.solve(budget) == solve(problem, budget)


def test_cheap_values_go_first():
    """At half of the memory the products of all layers are kept, and what is made of them is computed again."""
    problem = layers(8)
    solution = solve(problem, simulate(problem, keep_all(problem)).peak // 2)
    assert max(problem.cost[i] for batch in solution.plan.recompute for i in batch) < 10
    assert solution.gap < 0.1


def test_little_memory_means_checkpoints():
    """A long chain fits in far less than its values, and takes less than running everything again for each step."""
    n = 36
    before = [[i - 1] if i else [] for i in range(n)]
    problem = Problem.of([1.0] * n, [1] * n, before, [[i] for i in reversed(range(n))])
    solved = explore(problem)
    assert solved.minimum <= 4
    assert solved.solve(16).cost <= n
    # √n segments: their ends and one segment at a time (Chen et al. 2016).
    assert solve(problem, 16, "sqrt").cost <= n
    # With 6 values, Griewank & Walther 2000: binomial(s + t, s) steps are reversed with s values and t runs.
    assert solved.solve(7).cost <= 3 * n


def test_random_bits_are_not_drawn_twice():
    """bits -> mask -> dropped: the mask is kept, a quarter of the bits, and never a node that cannot run again."""
    problem = Problem.of(
        [1, 1, 1, 1],
        [8, 4, 1, 4],
        [[], [], [0], [1, 2]],
        [[3], [2], [1]],
        repeatable=[False, True, True, True],
    )
    assert pinned(problem).tolist() == [False, False, True, False]
    solved = explore(problem)
    plan = solved.solve(solved.minimum).plan
    assert all(problem.repeatable[i] and i != 2 for batch in plan.recompute for i in batch)
    rest = without(problem, pinned(problem))
    assert rest.bytes.tolist() == [8, 4, 0, 4] and rest.backward_base.tolist() == [1, 1, 1]


def test_offload_is_a_third_choice():
    problem = Problem.of(
        [100, 1], [10, 10], [[], []], [[1], [0]], transient=[0, 0], backward_base=[5, 5], offload_cost=[5, 5]
    )
    assert solve(problem, 15).cost == 1
    assert solve(problem, 14).cost == 101
    both = solve(problem, 14, offload=True)
    assert both.cost == 6 and both.plan.offload == {0}


@given(st.integers(0, 10**6), st.integers(1, 8), st.integers(1, 5), st.booleans())
@settings(max_examples=15, deadline=None, derandomize=True)
def test_plans_are_evaluated_together_as_one_by_one(seed, nodes, steps, has_pinned):
    problem = some_problem(seed, nodes, steps, pinned=has_pinned)
    r = np.random.default_rng(seed)
    states = r.integers(0, 3, (nodes, 6))
    states[(states == 2) & ~np.isfinite(problem.offload_cost)[:, None]] = 1
    costs, peaks = KeepSets(problem).evaluate(states == 1, states == 2)
    for column, cost, peak in zip(states.T, costs, peaks, strict=True):
        try:
            plan = lazily(problem, np.flatnonzero(column == 1).tolist(), np.flatnonzero(column == 2).tolist())
        except IncompletePlan:
            assert cost == np.inf
            continue
        assert cost == pytest.approx(plan.cost(problem))
        assert peak == simulate(problem, plan).peak


def test_useful_plans_run_nothing_for_nobody():
    problem = Problem.of([1] * 4, [1] * 4, [[], [0], [1], []], [[2], [1], [0]])
    # 3 is of no use, 2 not after step 0, 1 only before 2; 0 runs twice before what it is needed for.
    assert useful(problem, Plan(((0, 3), (0, 1), (0, 1, 2)))) == Plan(((), (0, 1), (0,)))
    # What comes from the host needs no operands.
    assert useful(problem, Plan(((), (0, 1), ()), frozenset({1}))) == Plan(((), (0, 1), ()), frozenset({1}))


def test_refined_plans_run_less_where_nodes_run_twice():
    problem = some_problem(0, 8, 4)
    # Everything from the start, for each step.
    frontier = Frontier(problem, [Plan((tuple(range(8)),) * 4)])
    assert frontier.points[0].plan != keep_all(problem)
    minimum = frontier.minimum
    refine(frontier, 1000)
    hull = Hull(problem)
    assert frontier.best(minimum).cost < 4 * problem.cost.sum()
    for point in frontier.points:
        assert point.cost == point.plan.cost(problem) and point.peak == simulate(problem, point.plan).peak
        assert hull.lower_bound(point.peak) <= point.cost + 1e-9
    # From where no node runs twice there is no way on.
    assert [sum(map(len, point.plan.recompute)) for point in frontier.points][-1] == 1


def test_more_cuts_raise_the_bound_between_two_corners():
    problem = layers(8)
    hull = Hull(problem, cuts=1)
    least, full = (round(hull.corners[k].bytes) for k in (0, -1))
    budgets = range(least, full, (full - least) // 7)
    rough, fine = ([hull.lower_bound(budget, cuts) for budget in budgets] for cuts in (0, 10))
    assert all(a <= b + 1e-9 for a, b in zip(rough, fine, strict=True)) and sum(fine) > sum(rough)
    exact = Hull(problem, cuts=100)
    assert fine == pytest.approx([exact.lower_bound(budget) for budget in budgets])


def test_what_is_movable():
    # 0 has one user that takes less, 3 is of no use to the backward, 4 cannot run again.
    problem = Problem.of(
        [1] * 5, [9, 5, 5, 5, 5], [[], [0], [1], [2], []], [[2], [1, 4]], repeatable=[True, True, True, True, False]
    )
    assert movable(problem).tolist() == [1, 2]


@pytest.mark.parametrize("solver", [*HEURISTICS, "milp"])
def test_programs_without_a_backward_or_without_nodes(solver):
    if solver == "milp":
        pytest.importorskip("highspy")
    assert solve(Problem.of([1, 1], [4, 4], [[], [0]], []), 8, solver).cost == 0
    assert solve(Problem.of([], [], [], []), 0, solver).cost == 0
    assert solve(Problem.of([], [], [], [[]], backward_base=[3]), 3, solver).cost == 0


def test_errors_say_what_to_do(monkeypatch):
    problem = layers(2)
    with pytest.raises(OptionError, match=r"no solver 'optimall' \(did you mean optimal\?\)"):
        solve(problem, 10, "optimall")
    with pytest.raises(Infeasible, match=r"infeasible: budget 1 bytes, .* needs \d+; raise the budget"):
        solve(problem, 1)
    monkeypatch.setitem(sys.modules, "scipy.sparse", None)
    with pytest.raises(ZenithError, match=r"pip install \"zenith_mlir\[solvers\]\""):
        solve(problem, 10)
    # Without libraries the baselines still work.
    assert solve(problem, 100, "greedy").cost == 0


@pytest.mark.parametrize("solver", ["optimal", "fast", "chain"])
def test_values_that_cost_nothing_have_no_price(solver):
    views = Problem.of([0.0] * 3, [4, 4, 4], [[], [0], [1]], [[2], [1], [0]])
    assert solve(views, 8, solver).cost == 0
