"""What solvers are compared with: equal segments, and dropping what is cheapest to compute again."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from zenith_mlir.remat.problem import Problem
from zenith_mlir.remat.schedule import Plan, keep_all, lazily

__all__ = ["greedy_plans", "pinned", "segment_plans"]

_SIZES = 32


def pinned(problem: Problem) -> NDArray[np.int64]:
    """The nodes that run once only. Keeping their values is enough to compute everything else again."""
    return np.flatnonzero(~problem.repeatable)


def segment_plans(problem: Problem) -> Iterator[Plan]:
    """Plans that keep what crosses the boundaries of k segments of equal residual bytes, for k = 1, ..., √n, ..., n
    (Chen et al. 2016, "Training deep nets with sublinear memory cost", section 4.2).
    """
    n = problem.nodes
    if not n:
        return
    residual = np.zeros(n)
    residual[problem.needed] = problem.bytes[problem.needed]
    filled = np.cumsum(residual)
    rows = problem.operand_rows
    last = np.arange(n)
    np.maximum.at(last, rows.values, rows.rows)
    root = round(n**0.5)
    counts = np.unique(np.append(np.geomspace(1, max(n, 1), _SIZES).astype(int), root))
    for count in counts[counts > 0].tolist():
        targets = filled[-1] * np.arange(1, count) / count
        boundaries = np.searchsorted(filled, targets, side="left") + 1
        # Value i crosses if a boundary lies after it and at or before its last user.
        crosses = np.searchsorted(boundaries, np.arange(n), side="right") < np.searchsorted(
            boundaries, last, side="right"
        )
        yield lazily(problem, np.union1d(np.flatnonzero(crosses), pinned(problem)).tolist())


def greedy_plans(problem: Problem) -> Iterator[Plan]:
    """Plans that compute again the needed values that take least time for a byte, more and more of them."""
    needed = problem.needed[problem.repeatable[problem.needed]]
    sizes = np.maximum(problem.bytes[needed], 1)
    order = needed[np.argsort(problem.cost[needed] / sizes, kind="stable")]
    always = pinned(problem).tolist()
    yield keep_all(problem)
    for dropped in np.unique(np.linspace(0, len(order), 2 * _SIZES).astype(int)).tolist():
        yield lazily(problem, [*order[dropped:].tolist(), *always])
