"""One interface to all solvers of rematerialization."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from zenith_mlir.errors import OptionError, ZenithError, did_you_mean
from zenith_mlir.remat.baselines import greedy_plans, segment_plans
from zenith_mlir.remat.boundaries import Boundaries
from zenith_mlir.remat.chain_plans import ChainPlans
from zenith_mlir.remat.cpsat import solve_cpsat
from zenith_mlir.remat.cut import Hull, cut_plans
from zenith_mlir.remat.frontier import Frontier, Plans, Point
from zenith_mlir.remat.milp import solve_milp
from zenith_mlir.remat.priced import priced_plans
from zenith_mlir.remat.problem import Problem
from zenith_mlir.remat.referee import Referee, Search
from zenith_mlir.remat.refine import refine
from zenith_mlir.remat.relaxation import peak_moments, relaxed_bound
from zenith_mlir.remat.schedule import Plan, keep_all
from zenith_mlir.remat.search import searched_plans
from zenith_mlir.remat.sections import Sections

__all__ = ["SOLVERS", "Infeasible", "Options", "Solution", "Solved", "explore", "solve"]


@dataclass(frozen=True)
class Solution:
    """The cheapest plan found within a budget.

    `cost` is in seconds on top of the program that keeps everything, `peak` the bytes of its simulated schedule;
    no plan within the budget costs less than `lower_bound`.
    """

    plan: Plan
    cost: float
    peak: int
    lower_bound: float
    solver: str

    @property
    def gap(self) -> float:
        """The part of `cost` that is not proven necessary: 0 for an optimal plan."""
        return max(0.0, (self.cost - self.lower_bound) / self.cost) if self.cost > 0 else 0.0


class Infeasible(ZenithError):
    """No plan was found that fits the budget; `minimum` is the least budget in bytes for which there is one."""

    def __init__(self, budget_bytes: int, minimum: int, solver: str):
        super().__init__(
            f"infeasible: budget {budget_bytes} bytes, and the smallest plan of solver {solver} needs {minimum}; "
            "raise the budget to that or more"
        )
        self.budget_bytes = budget_bytes
        self.minimum = minimum


@dataclass(frozen=True)
class Options:
    """Whether values may go to the host, and the seconds that a solver which would search for long may take."""

    offload: bool = False
    time_limit: float | None = None


@dataclass(frozen=True)
class Solved:
    """What a solver knows of a problem: solutions for any budget."""

    solver: str
    sources: Sequence[Plans]
    lower_bound: Callable[[int], float]

    def solve(self, budget_bytes: int) -> Solution:
        """The cheapest plan whose simulated peak is at most `budget_bytes`.

        Raises:
            Infeasible: if none was found; it states the least budget for which one was.
        """
        best = self.best(budget_bytes)
        if best is None:
            raise Infeasible(budget_bytes, self.minimum, self.solver)
        bound = min(self.lower_bound(budget_bytes), best.cost)
        return Solution(best.plan, best.cost, best.peak, bound, self.solver)

    def best(self, budget_bytes: int) -> Point | None:
        """The cheapest plan that fits."""
        points = [source.best(budget_bytes) for source in self.sources]
        return min((point for point in points if point), key=lambda point: (point.cost, point.peak), default=None)

    @property
    def minimum(self) -> int:
        """The least budget for which there is a plan."""
        return min(source.minimum for source in self.sources)


# Events (nodes and steps) of schedules that may be looked at for plans between the corners of a hull, for those of each
# priced cut and of the chain, in the local search, and in that among plans that run a node twice.
_MIXTURE_WORK = 1_000_000
_PRICED_WORK = 20_000
_PRICED_TRIES = 20
_PRICED_BUDGETS = 32
_CHAIN_WORK = 500_000
_CHAIN_PLANS = 400
_SECTIONS = 1, 16, 64, 256
# Of problems with more events only the finer ones.
_MANY_EVENTS = 50_000
_SEARCH_WORK = 15_000_000
_REFINE_WORK = 400_000
_REFINE_TRIES = 2000
# Cuts that look for the best bound for a budget.
_BOUND_CUTS = 10
# What the referees may spend on a bound for all plans, and at how many moments it looks.
_BOUND_SECONDS = 10.0
_MOMENTS = 5


def _mixtures(problem: Problem) -> int:
    """How many plans to try between two corners."""
    return min(_MIXTURE_WORK // (50 * (problem.nodes + problem.steps + 1)), 50)


def _no_bound(budget_bytes: int) -> float:
    return 0.0


def _sqrt(problem: Problem, options: Options) -> Solved:
    return Solved("sqrt", [Frontier(problem, [keep_all(problem), *segment_plans(problem)])], _no_bound)


def _greedy(problem: Problem, options: Options) -> Solved:
    return Solved("greedy", [Frontier(problem, greedy_plans(problem))], _no_bound)


def _cut(problem: Problem, options: Options) -> Solved:
    hull = Hull(problem, offload=options.offload)
    plans = [keep_all(problem), *cut_plans(hull, _mixtures(problem))]
    return Solved("cut", [Frontier(problem, plans), *_sections(hull)], hull.lower_bound)


def _sections(hull: Hull) -> list[Sections]:
    if not hull.corners:
        return []
    problem, boundaries = hull.problem, Boundaries(hull.problem)
    counts = _SECTIONS if problem.nodes + problem.steps <= _MANY_EVENTS else _SECTIONS[-2:]
    return [Sections(hull, boundaries, count) for count in counts]


def _chain(problem: Problem, options: Options) -> Solved:
    return Solved("chain", [Frontier(problem, [keep_all(problem)]), ChainPlans(problem)], _no_bound)


def _fast(problem: Problem, options: Options) -> Solved:
    """Cuts and the chain: what can be waited for while a program is traced."""
    cut = _cut(problem, options)
    return Solved("fast", [*cut.sources, ChainPlans(problem)], cut.lower_bound)


def _optimal(problem: Problem, options: Options) -> Solved:
    """Cuts, segments and the chain, and for all but large problems local searches that begin with them."""
    hull, chain = Hull(problem, offload=options.offload), ChainPlans(problem)
    events = problem.nodes + problem.steps + 1
    frontier = Frontier(problem, [keep_all(problem)])
    if mixtures := _mixtures(problem):
        for plan in (*cut_plans(hull, mixtures), *segment_plans(problem)):
            frontier.add(plan)
    budgets = np.linspace(frontier.minimum / 2, frontier.points[-1].peak, min(_PRICED_BUDGETS, problem.nodes))
    for point in priced_plans(hull, budgets, min(_PRICED_WORK // events, _PRICED_TRIES)):
        frontier.keep(point)
    for point in chain.spread(min(_CHAIN_PLANS, _CHAIN_WORK // events)):
        frontier.keep(point)
    evaluations = _SEARCH_WORK // events
    if evaluations > problem.nodes:
        known = [point.plan for point in frontier.points]
        for plan in searched_plans(problem, known, evaluations, options.offload):
            frontier.add(plan)
    if (tries := min(_REFINE_WORK // events, _REFINE_TRIES)) > problem.nodes:
        refine(frontier, tries)
    return Solved("optimal", [frontier, chain, *_sections(hull)], partial(hull.lower_bound, cuts=_BOUND_CUTS))


def _milp(problem: Problem, options: Options) -> Solved:
    return _referee("milp", solve_milp, problem, options)


def _cpsat(problem: Problem, options: Options) -> Solved:
    return _referee("cpsat", solve_cpsat, problem, options)


def _referee(name: str, search: Search, problem: Problem, options: Options) -> Solved:
    first = _optimal(problem, options)
    referee = Referee(problem, first, search, offload=options.offload, time_limit=options.time_limit)

    def lower_bound(budget_bytes: int) -> float:
        best = referee.best(budget_bytes)
        moments = peak_moments(problem, best.plan, _MOMENTS) if best and problem.steps else [0]
        seconds = min(options.time_limit or _BOUND_SECONDS, _BOUND_SECONDS)
        relaxed = relaxed_bound(problem, budget_bytes, moments, offload=options.offload, time_limit=seconds)
        return max(referee.lower_bound(budget_bytes), first.lower_bound(budget_bytes), relaxed)

    return Solved(name, [referee], lower_bound)


def _everything(problem: Problem, options: Options) -> Solved:
    solved = [solver(problem, options) for name, solver in SOLVERS.items() if name != "all"]
    sources = [source for each in solved for source in each.sources]
    return Solved("all", sources, lambda budget: max(each.lower_bound(budget) for each in solved))


SOLVERS: dict[str, Callable[[Problem, Options], Solved]] = {
    "optimal": _optimal,
    "fast": _fast,
    "chain": _chain,
    "cut": _cut,
    "milp": _milp,
    "cpsat": _cpsat,
    "sqrt": _sqrt,
    "greedy": _greedy,
    "all": _everything,
}


def explore(
    problem: Problem, solver: str = "optimal", *, offload: bool = False, time_limit: float | None = None
) -> Solved:
    """What `solver` knows of `problem`, to be asked for several budgets; arguments and errors as of `solve`."""
    if solver not in SOLVERS:
        known = ", ".join(SOLVERS)
        raise OptionError(f"there is no solver {solver!r}{did_you_mean(solver, SOLVERS)}; there are {known}")
    return SOLVERS[solver](problem, Options(offload, time_limit))


def solve(
    problem: Problem,
    budget_bytes: int,
    solver: str = "optimal",
    *,
    offload: bool = False,
    time_limit: float | None = None,
) -> Solution:
    """The cheapest plan for `problem` whose simulated peak is at most `budget_bytes`.

    Args:
        problem: What there is to keep and to recompute.
        budget_bytes: Bytes that the schedule may need at any moment.
        solver: A name in `SOLVERS`. The cost of all but `milp` and `cpsat` is monotone in the budget. `fast` is
            `optimal` without its search. `milp` and `cpsat` begin with the plan of `optimal`, which is all
            there is of problems too large for them; `all` takes the best of all solvers.
        offload: Whether values may also wait on the host, at the problem's `offload_cost`.
        time_limit: Seconds after which `milp` and `cpsat` stop.

    Raises:
        Infeasible: if no plan was found that fits; it states the least budget for which there is one.
        OptionError: if there is no such solver.
        ZenithError: if a library that the solver needs is not installed.
    """
    return explore(problem, solver, offload=offload, time_limit=time_limit).solve(budget_bytes)
