"""Where a program can be taken apart: positions of the forward that few bytes cross."""

from __future__ import annotations

from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from zenith_mlir.remat.problem import Problem

__all__ = ["Boundaries"]

Indices = NDArray[np.int64]


class Boundaries:
    """Positions of the forward, p before node p, each with its place in the backward, `step(p)`: no step from there on
    uses a value computed at or after p, and those before it can do without what does not cross p.

    Value i crosses the positions after i up to `end[i]`: where a node at or after the position needs it, or a step that
    comes before some other which needs a node at or after the position. So what crosses p is all that has to be there
    to run the forward from p on, and the backward down to p.
    """

    def __init__(self, problem: Problem):
        self.problem = problem
        n, m = problem.nodes, problem.steps
        nodes, uses = problem.operand_rows, problem.use_rows
        self.end = np.arange(n)
        np.maximum.at(self.end, nodes.values, nodes.rows)
        # The last value that a step or any after it uses.
        top = np.full(m + 1, -1)
        np.maximum.at(top, uses.rows, uses.values)
        top = np.maximum.accumulate(top[::-1])[::-1]
        first = np.full(n, m)
        np.minimum.at(first, uses.values, uses.rows)
        self.end = np.maximum(self.end, top[first])
        # Up to which position all that a step and those before it use crosses, or is computed later.
        reach = np.full(m, n)
        np.minimum.at(reach, uses.rows, self.end[uses.values])
        self._reach = np.minimum.accumulate(reach)

    def step(self, positions: Indices) -> Indices:
        """The steps before this one make the backward of all nodes from each position on."""
        return np.searchsorted(-self._reach, -positions, side="right")

    @cached_property
    def bytes(self) -> Indices:
        """The bytes that cross each position, 0 to n - 1."""
        return self._sum(self.problem.bytes)

    def _sum(self, sizes: Indices) -> Indices:
        n = self.problem.nodes
        change = np.zeros(n + 1, np.int64)
        change[1:] += sizes
        np.subtract.at(change, self.end + 1, sizes)
        return np.cumsum(change)[:n]

    def crossing(self, position: int) -> Indices:
        """The values that cross `position`."""
        return np.flatnonzero(self.end[:position] >= position)

    def between(self, positions: Indices, sizes: Indices) -> Indices:
        """For positions s < t the `sizes` together of what crosses t and not s, at [s, t]."""
        result = np.zeros((len(positions), len(positions)), np.int64)
        for t, position in enumerate(positions.tolist()):
            crossing = self.crossing(position)
            # What crosses t and is computed before s crosses s too.
            sums = np.append(np.cumsum(sizes[crossing][::-1])[::-1], 0)
            result[:t, t] = sums[np.searchsorted(crossing, positions[:t])]
        return result

    def choose(self, most: int, thinned: int) -> Indices:
        """Where the fewest bytes cross for a while, with some backward between any two, and 0 first: all positions if
        there are at most `most`, else about `thinned`, spread evenly over the residual bytes.
        """
        problem = self.problem
        chosen = self._apart(self._lowest())
        if len(chosen) >= most:
            filled = np.zeros(problem.nodes, np.int64)
            filled[problem.needed] = problem.bytes[problem.needed]
            filled = np.cumsum(filled)
            bucket = (filled[chosen - 1] * (thinned - 1)) // (filled[-1] + 1)
            order = np.lexsort((self.bytes[chosen], bucket))
            chosen = np.sort(chosen[order[np.unique(bucket[order], return_index=True)[1]]])
        return np.append(0, chosen)

    def _lowest(self) -> Indices:
        """The first and the last of each run of positions that are crossed by the same bytes, and more on both sides:
        after what is expensive, and after what is cheap to compute from it. Where there are less than segments need
        (sqrt(n), Chen et al. 2016), as in a chain of equal values, all that are crossed by no more than those beside.
        """
        runs = np.flatnonzero(np.diff(self.bytes, prepend=-1))
        sizes = self.bytes[runs]
        higher = np.append(sizes[1:], np.iinfo(np.int64).max)
        low = np.flatnonzero((sizes < np.append(np.iinfo(np.int64).max, sizes[:-1])) & (sizes < higher))
        ends = np.append(runs[1:], self.problem.nodes) - 1
        lowest = np.unique([runs[low], ends[low]])
        if len(lowest) ** 2 >= self.problem.nodes:
            return lowest
        beside = np.append(self.bytes[2:], np.iinfo(np.int64).max)
        return 1 + np.flatnonzero(self.bytes[1:] <= np.minimum(self.bytes[:-1], beside))

    def _apart(self, positions: Indices) -> Indices:
        """Of positions with the same place in the backward one with the fewest bytes, and none at its start or end."""
        steps = self.step(positions)
        inside = (steps > 0) & (steps < self.problem.steps)
        positions, steps = positions[inside], steps[inside]
        order = np.lexsort((self.bytes[positions], steps))
        return np.sort(positions[order[np.unique(steps[order], return_index=True)[1]]])
