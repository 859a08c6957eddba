"""Keep or compute again, for all values at once, at given prices: a minimum cut.

A value that the backward uses has to be kept, or recomputed from operands that are kept or recomputed in turn. With a
price on keeping each value, the cheapest choice is a closure problem (Picard 1976, "Maximal closure of a graph"), hence
a minimum cut:

    source ──∞──▶ A(i)    if a step uses i
    A(i) ──keep[i]──▶ R(i) ──again[i]──▶ sink
    R(i) ──∞──▶ A(j)      for each operand j

A(i) on the source's side says that i is there in the backward, R(i) that it is recomputed for that.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from zenith_mlir.errors import ZenithError
from zenith_mlir.remat.problem import Problem

__all__ = ["Choice", "Closure", "scipy_graph"]

Seconds = NDArray[np.float64]

# scipy's flows are of 32 bits. No flow exceeds what keeping all that is needed costs, which becomes this.
_LARGEST = 2**30
_INFINITE = _LARGEST + 1


@dataclass(frozen=True, eq=False)
class Choice:
    """`keep[i]` and `again[i]`: value i is kept for the backward, or recomputed; neither where it is not needed.
    `value` bounds the sum of the prices of any choice from below, this one's up to rounding.
    """

    keep: NDArray[np.bool_]
    again: NDArray[np.bool_]
    value: float


def scipy_graph() -> Any:
    """`scipy.sparse.csgraph`.

    Raises:
        ZenithError: if scipy is not installed.
    """
    try:
        from scipy.sparse import csgraph
    except ImportError:
        raise ZenithError('this solver needs scipy: pip install "zenith_mlir[solvers]"') from None
    return csgraph


class Closure:
    """The graph of a problem, to be cut at many prices."""

    def __init__(self, problem: Problem):
        self._csgraph = scipy_graph()
        n, needed, rows = problem.nodes, problem.needed, problem.operand_rows
        self.problem = problem
        nodes = np.arange(n)
        # A(i) is vertex i, R(i) is n + i.
        source, sink = 2 * n, 2 * n + 1
        tails = np.concatenate([np.full(len(needed), source), nodes, n + nodes, n + rows.rows])
        heads = np.concatenate([needed, n + nodes, np.full(n, sink), rows.values])
        order = np.lexsort((heads, tails))
        starts = np.searchsorted(tails[order], np.arange(2 * n + 3))
        self._structure = heads[order].astype(np.int32), starts.astype(np.int32)
        self._capacities = np.full(len(tails), _INFINITE, np.int32)
        edges = np.argsort(order)
        self._keep = edges[len(needed) : len(needed) + n]
        self._again = edges[len(needed) + n : len(needed) + 2 * n]

    def choose(self, keep: Seconds, again: Seconds) -> Choice:
        """The choice with the least sum of `keep[i]` over kept and `again[i]` over recomputed values.

        Infinite prices forbid. A value that is not `repeatable` is never recomputed.

        Raises:
            ZenithError: if keeping some needed value is forbidden: then there may be no choice.
        """
        from scipy.sparse import csr_array

        n = self.problem.nodes
        everything = float(keep[self.problem.needed].sum())
        if not np.isfinite(everything):
            raise ZenithError("expected a finite price for keeping each value that a step uses")
        unit = _LARGEST / everything if everything > 0 else 1.0

        def whole(prices: Seconds) -> NDArray[np.int32]:
            # Rounded down, so that the flow is a bound.
            return np.minimum(np.floor(prices * unit), _INFINITE).astype(np.int32)

        data = self._capacities.copy()
        data[self._keep] = whole(keep)
        data[self._again] = np.where(self.problem.repeatable, whole(again), _INFINITE)
        graph = csr_array((data, *self._structure), shape=(2 * n + 2, 2 * n + 2))
        result = self._csgraph.maximum_flow(graph, 2 * n, 2 * n + 1)
        reached = np.zeros(2 * n + 2, bool)
        # What is left of the capacities leads there.
        reached[self._csgraph.breadth_first_order(graph - result.flow, 2 * n, return_predecessors=False)] = True
        there, recomputed = reached[:n], reached[n : 2 * n]
        return Choice(there & ~recomputed, recomputed, result.flow_value / unit)
