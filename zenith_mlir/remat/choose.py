"""Which values of a program to keep within a budget, as segments that can be run."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from zenith_mlir.memory.sizes import Budget
from zenith_mlir.remat.from_lines import problem_of_program
from zenith_mlir.remat.lines import Program
from zenith_mlir.remat.problem import Problem
from zenith_mlir.remat.rates import Rates
from zenith_mlir.remat.schedule import keep_all, simulate
from zenith_mlir.remat.segments import Segments
from zenith_mlir.remat.solve import Infeasible, explore

__all__ = ["choose"]

# How many plans are looked at for one that fits.
_TRIES = 24


def choose(program: Program, solver: str, budget: Budget | None, rates: Rates, *, offload: bool = False) -> Segments:
    """Segments of `program` that compute least again among those that fit `budget`; without one, those that need least
    memory.

    A budget in bytes bounds the peak: all that is live at one moment because of the program and its backward. A share
    bounds what is kept between the two, and is a share of what would be kept if nothing were computed again.

    Raises:
        Infeasible: if none fits; it states what would do.
    """
    is_share = budget is not None and budget.share is not None
    chooser = _Chooser(program, rates, solver, offload, is_share)
    if budget is not None:
        limit = budget.of(chooser.problem.residual_bytes)
        for request in chooser.requests(limit + chooser.base, _TRIES):
            if (found := chooser.realised(request)).size <= limit:
                return found.segments
    least = min(map(chooser.realised, chooser.requests(chooser.total, 2 * _TRIES)), key=lambda found: found.size)
    if budget is not None and least.size > limit:
        raise Infeasible(limit, least.size, solver)
    return least.segments


@dataclass(frozen=True)
class _Realised:
    """Segments, and the bytes that the budget bounds."""

    segments: Segments
    size: int


class _Chooser:
    """Asks a solver for plans and makes segments of them. These compute more at once than the plans do, so the segments
    that fit a budget are those of a plan for less.
    """

    def __init__(self, program: Program, rates: Rates, solver: str, offload: bool, is_share: bool):
        self.problem, self.level, self.steps = problem_of_program(program, rates)
        self.is_share = is_share
        # Solvers divide by budgets: none is 0.
        self.base = self.problem.residual_bytes // 16 + 1 if is_share else 0
        self.stated = _only_kept(self.problem, self.base) if is_share else self.problem
        self.solved = explore(self.stated, solver, offload=offload)
        self.total = simulate(self.stated, keep_all(self.stated)).peak

    def requests(self, limit: int, count: int) -> Iterator[int]:
        """Budgets to ask the solver for, from `limit` down to the least there is a plan for."""
        least = self.solved.minimum
        if limit > least:
            yield from (int(request) for request in np.geomspace(limit, max(least, 1), count)[:-1])
        yield least

    def realised(self, request: int) -> _Realised:
        """The plan for this budget as segments."""
        plan = self.solved.solve(request).plan
        segments = Segments.of(self.problem, self.level, simulate(self.stated, plan).kept, plan.offload)
        timeline = simulate(self.problem, segments.plan(self.problem, self.level, self.steps))
        kept = int(self.problem.bytes[list(timeline.kept)].sum())
        return _Realised(segments, kept if self.is_share else timeline.peak)


def _only_kept(problem: Problem, base: int) -> Problem:
    """The same problem where nothing takes room but what waits for the backward, and `base` bytes throughout."""
    uses = [problem.needed.tolist()] if len(problem.needed) else []
    return replace(
        problem,
        uses=uses,
        transient=np.zeros(problem.nodes, np.int64),
        forward_base=np.full(problem.nodes, base),
        backward_base=np.full(len(uses), base),
    )
