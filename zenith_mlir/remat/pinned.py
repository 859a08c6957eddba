"""What has to be kept because it cannot be computed again."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from zenith_mlir.remat.closure import Closure
from zenith_mlir.remat.problem import Problem

__all__ = ["pinned", "without"]


def pinned(problem: Problem) -> NDArray[np.bool_]:
    """The fewest bytes of values from which all that the backward uses can be computed without running a node again
    that is not `repeatable`: of random bits that become a mask, the mask.
    """
    if problem.repeatable.all():
        return np.zeros(problem.nodes, bool)
    return Closure(problem).choose(problem.bytes.astype(np.float64), np.zeros(problem.nodes)).keep


def without(problem: Problem, kept: NDArray[np.bool_]) -> Problem:
    """The problem that is left once `kept` are kept: there they take no bytes and are computed from nothing in no time.

    Their bytes are live beside everything else from when they are computed to the end: an estimate from above.
    """
    if not kept.any():
        return problem
    sizes = np.where(kept, problem.bytes, 0)
    return replace(
        problem,
        cost=np.where(kept, 0.0, problem.cost),
        bytes=np.where(kept, 0, problem.bytes),
        transient=np.where(kept, 0, problem.transient),
        operands=[() if k else js for k, js in zip(kept.tolist(), problem.operands, strict=True)],
        repeatable=problem.repeatable | kept,
        forward_base=problem.forward_base + np.cumsum(sizes),
        backward_base=problem.backward_base + int(sizes.sum()),
    )
