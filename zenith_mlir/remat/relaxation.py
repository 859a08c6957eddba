"""A lower bound for all plans: an integer program that looks at a few moments of the backward only."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from zenith_mlir.errors import ZenithError
from zenith_mlir.remat.problem import Problem
from zenith_mlir.remat.schedule import Plan, simulate

__all__ = ["peak_moments", "relaxed_bound"]

Indices = NDArray[np.int64]

_TOLERANCE = 1e-6


def peak_moments(problem: Problem, plan: Plan, most: int) -> list[int]:
    """The steps at which the schedule of `plan` needs most, each with the one after it, and the first."""
    timeline = simulate(problem, plan)
    live = np.zeros(problem.steps, np.int64)
    np.maximum.at(live, timeline.step[problem.nodes :], timeline.live[problem.nodes :])
    moments = {0}
    for t in np.argsort(-live, kind="stable").tolist():
        if len(moments) < most and not moments & {t - 1, t, t + 1} - {0}:
            moments |= {t, min(t + 1, problem.steps - 1)}
    return sorted(moments)


def relaxed_bound(
    problem: Problem, budget_bytes: int, moments: Iterable[int], *, offload: bool = False, time_limit: float = 10.0
) -> float:
    """No plan whose schedule fits `budget_bytes` costs less, in seconds.

    `moments`, 0 among them, are steps that cut the backward into sections. Whatever a plan does, when a section begins
    some values wait (S), and in it some are computed or fetched at least once (R): a value used in it is one of both,
    as are the operands of what is computed in it, and so is what waits for the next. All that wait fit beside the step
    that begins, and beside what the step before it uses.

    Raises:
        ZenithError: if scipy is not installed.
    """
    try:
        from scipy.optimize import Bounds, LinearConstraint, milp
        from scipy.sparse import csr_array
    except ImportError:
        raise ZenithError('this bound needs scipy: pip install "zenith_mlir[solvers]"') from None
    n, starts = problem.nodes, sorted(moments)
    if not len(problem.needed):
        return 0.0
    ways = 3 if offload else 2
    # Columns of section g: S(i) at offset 0, R(i) at n, and with offload F(i), what is fetched, at 2 n.
    cost = np.zeros((len(starts), ways, n))
    cost[:, 1] = problem.cost
    if offload:
        cost[:, 2] = np.where(np.isfinite(problem.offload_cost), problem.offload_cost, 0.0)
    most = np.ones((len(starts), ways, n))
    most[:, 1, ~problem.repeatable] = 0
    if offload:
        most[:, 2, ~np.isfinite(problem.offload_cost)] = 0
    unit = float(problem.cost.sum()) or 1.0
    rows = _Rows()
    nodes = np.arange(n)
    users, operands = problem.operand_rows.rows, problem.operand_rows.values
    for g, (start, stop) in enumerate(pairwise([*starts, problem.steps])):
        first = ways * n * g
        used = np.unique(problem.use_rows.take(np.arange(start, stop))[0])
        rows.each(1.0, *((first + way * n + used, 1.0) for way in range(ways)))
        there = [(first + way * n + operands, 1.0) for way in range(ways)]
        rows.each(0.0, *there, (first + n + users, -1.0))
        if g + 1 < len(starts):
            now = [(first + way * n + nodes, 1.0) for way in range(ways)]
            rows.each(0.0, *now, (first + ways * n + nodes, -1.0))
        base = max(problem.backward_base[start], problem.forward_base[-1] if start == 0 else 0)
        rows.one(base - budget_bytes, first + nodes, -problem.bytes)
        if start:
            # What the step before uses is there, in full where it waits on.
            uses = np.asarray(problem.uses[start - 1], np.int64)
            sizes = problem.bytes.copy()
            sizes[uses] -= problem.transient[uses]
            least = problem.backward_base[start - 1] + problem.transient[uses].sum()
            rows.one(least - budget_bytes, first + nodes, -sizes)
    constraints = csr_array(rows.matrix(), shape=(len(rows.low), cost.size))
    result = milp(
        cost.ravel() / unit,
        integrality=np.ones(cost.size),
        bounds=Bounds(0, most.ravel()),
        constraints=LinearConstraint(constraints, np.array(rows.low), np.inf),
        options={"time_limit": time_limit},
    )
    bound = result.mip_dual_bound
    # Less what the solver's tolerances allow.
    return max(0.0, float(bound) - _TOLERANCE) * unit if bound is not None and np.isfinite(bound) else 0.0


class _Rows:
    """Rows of a linear program, each at least its `low`."""

    def __init__(self) -> None:
        self.low: list[float] = []
        self._rows: list[Indices] = []
        self._columns: list[Indices] = []
        self._values: list[NDArray[np.float64]] = []

    def each(self, low: float, *terms: tuple[Indices, float]) -> None:
        """One row for each position in the columns of `terms`."""
        count = len(terms[0][0])
        for columns, value in terms:
            self._rows.append(len(self.low) + np.arange(count))
            self._columns.append(columns)
            self._values.append(np.full(count, value))
        self.low += [low] * count

    def one(self, low: float, columns: Indices, values: Indices) -> None:
        """One row, divided by its largest number."""
        scale = float(np.abs(values).max(initial=0)) or 1.0
        self._rows.append(np.full(len(columns), len(self.low)))
        self._columns.append(columns)
        self._values.append(values / scale)
        self.low.append(low / scale)

    def matrix(self) -> tuple[NDArray[np.float64], tuple[Indices, Indices]]:
        return np.concatenate(self._values), (np.concatenate(self._rows), np.concatenate(self._columns))
