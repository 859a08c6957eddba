"""Which values of a program to keep within a budget, as segments that can be run."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from zenith_mlir.memory.sizes import Budget
from zenith_mlir.remat.from_lines import problem_of_program
from zenith_mlir.remat.lines import Program
from zenith_mlir.remat.rates import Rates
from zenith_mlir.remat.schedule import Plan, Timeline, keep_all, simulate
from zenith_mlir.remat.segments import Segments
from zenith_mlir.remat.solve import SOLVERS, Infeasible, Request

__all__ = ["choose"]


@dataclass(frozen=True)
class _Candidate:
    """What a plan becomes as segments, and what it takes."""

    segments: Segments
    size: int
    cost: float


def choose(program: Program, solver: str, budget: Budget | None, rates: Rates, *, offload: bool = False) -> Segments:
    """Segments of `program` that compute least again among those that fit `budget`; without one, those that need least
    memory.

    A budget in bytes bounds the peak: all that is live at one moment because of the program and its backward. A share
    bounds what is kept between the two, and is a share of what would be kept if nothing were computed again.

    Raises:
        Infeasible: if none fits; it states what would do.
    """
    return _Chooser(program, solver, budget, rates, offload).best()


class _Chooser:
    def __init__(self, program: Program, solver: str, budget: Budget | None, rates: Rates, offload: bool):
        self.problem, self.level, self.steps = problem_of_program(program, rates)
        self.solver = solver
        self.offload = offload
        self.is_share = budget is not None and budget.share is not None
        self.bytes = 0 if budget is None else budget.of(self.problem.residual_bytes)
        self.has_budget = budget is not None

    def best(self) -> Segments:
        # A solver is told of less memory if what it finds does not fit as segments, which compute more at once.
        requests = (self.bytes * eighths // 8 for eighths in range(8, 3, -1)) if self.has_budget else (0,)
        seen: dict[frozenset[int], _Candidate] = {}
        for request in requests:
            for plan in self.by_cost(self.plans(request)):
                candidate = self.candidate(plan, seen)
                if self.has_budget and candidate.size <= self.bytes:
                    return candidate.segments
        least = min(seen.values(), key=lambda candidate: (candidate.size, candidate.cost))
        if self.has_budget:
            raise Infeasible(self.bytes, least.size, self.solver)
        return least.segments

    def plans(self, budget_bytes: int) -> Iterable[Plan]:
        yield keep_all(self.problem)
        yield from SOLVERS[self.solver](self.problem, Request(budget_bytes, self.offload)).plans

    def by_cost(self, plans: Iterable[Plan]) -> list[Plan]:
        return sorted(plans, key=lambda plan: plan.cost(self.problem))

    def candidate(self, plan: Plan, seen: dict[frozenset[int], _Candidate]) -> _Candidate:
        """What becomes of `plan` as segments."""
        kept = simulate(self.problem, plan).kept
        key = kept | {-1 - i for i in plan.offload}
        if key not in seen:
            segments = Segments.of(self.problem, self.level, kept, plan.offload)
            real = segments.plan(self.problem, self.level, self.steps)
            seen[key] = _Candidate(segments, self.size(simulate(self.problem, real)), real.cost(self.problem))
        return seen[key]

    def size(self, timeline: Timeline) -> int:
        """The bytes that the budget bounds."""
        return int(self.problem.bytes[list(timeline.kept)].sum()) if self.is_share else timeline.peak
