"""One interface to all solvers of rematerialization."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from zenith_mlir.errors import OptionError, ZenithError, did_you_mean
from zenith_mlir.remat.baselines import greedy_plans, segment_plans
from zenith_mlir.remat.cut import Hull, cut_plans
from zenith_mlir.remat.frontier import Frontier
from zenith_mlir.remat.problem import Problem
from zenith_mlir.remat.schedule import Plan, keep_all

__all__ = ["SOLVERS", "Found", "Infeasible", "Request", "Solution", "solve"]


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
            f"raise the budget to {minimum} bytes or more"
        )
        self.budget_bytes = budget_bytes
        self.minimum = minimum


@dataclass(frozen=True)
class Request:
    """What a solver is asked: bytes, whether values may go to the host, and seconds that it may take."""

    budget_bytes: int
    offload: bool = False
    time_limit: float | None = None


@dataclass(frozen=True)
class Found:
    """What a solver answers: plans, whether they fit or not, and a bound for the budget it was asked for."""

    plans: Iterable[Plan]
    lower_bound: float = 0.0


def _sqrt(problem: Problem, request: Request) -> Found:
    return Found(segment_plans(problem))


def _greedy(problem: Problem, request: Request) -> Found:
    return Found(greedy_plans(problem))


def _cut(problem: Problem, request: Request) -> Found:
    hull = Hull(problem, offload=request.offload)
    return Found(cut_plans(hull), hull.lower_bound(request.budget_bytes))


def _optimal(problem: Problem, request: Request) -> Found:
    found = [solver(problem, request) for solver in (_cut, _sqrt, _greedy)]
    return Found((plan for each in found for plan in each.plans), max(each.lower_bound for each in found))


SOLVERS: dict[str, Callable[[Problem, Request], Found]] = {
    "optimal": _optimal,
    "cut": _cut,
    "sqrt": _sqrt,
    "greedy": _greedy,
}


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
        solver: A name in `SOLVERS`.
        offload: Whether values may also wait on the host, at the problem's `offload_cost`.
        time_limit: Seconds after which solvers that search stop.

    Raises:
        Infeasible: if no plan was found that fits; it states the least budget for which there is one.
        OptionError: if there is no such solver.
        ZenithError: if a library that the solver needs is not installed.
    """
    if solver not in SOLVERS:
        raise OptionError(
            f"there is no solver {solver!r}{did_you_mean(solver, SOLVERS)}; there are {', '.join(SOLVERS)}"
        )
    found = SOLVERS[solver](problem, Request(budget_bytes, offload, time_limit))
    frontier = Frontier(problem, [keep_all(problem), *found.plans])
    best = frontier.best(budget_bytes)
    if best is None:
        raise Infeasible(budget_bytes, frontier.minimum, solver)
    return Solution(best.plan, best.cost, best.peak, min(found.lower_bound, best.cost), solver)
