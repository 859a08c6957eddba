"""The problem of rematerialization: forward nodes, backward steps that need their values, and what everything takes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from zenith_mlir.remat.ragged import Ragged

if TYPE_CHECKING:
    import networkx

__all__ = ["Problem"]


@dataclass(frozen=True, eq=False)
class Problem:
    """A forward of n nodes that runs once in order, then a backward of m steps in order.

    Node i computes one value from those of `operands[i]`, all below i, in `cost[i]` seconds. Arguments of the program
    and constants are no nodes: they are there anyway. Neither are views: the source stands for them.

    `bytes[i]` is what the value takes while it waits for the backward. `transient[i]`, at most that, is what it takes
    while it waits for its users in the same sweep: 0 where XLA fuses it into these. A node that is not `repeatable`
    (random bits, side effects) runs once.

    Step t of the backward uses the values `uses[t]`. `backward_base[t]` and `forward_base[i]` are the bytes live at
    that moment whatever is decided: cotangents, gradients, workspace.

    `offload_cost[i]` is in seconds what sending the value to the host and bringing it back adds; infinite where it
    cannot go there.
    """

    cost: NDArray[np.float64]
    bytes: NDArray[np.int64]
    operands: Sequence[Sequence[int]]
    uses: Sequence[Sequence[int]]
    transient: NDArray[np.int64]
    repeatable: NDArray[np.bool_]
    forward_base: NDArray[np.int64]
    backward_base: NDArray[np.int64]
    offload_cost: NDArray[np.float64]
    names: Sequence[str] = field(default=())

    @classmethod
    def of(
        cls,
        cost: Sequence[float],
        bytes: Sequence[int],
        operands: Sequence[Sequence[int]],
        uses: Sequence[Sequence[int]],
        *,
        transient: Sequence[int] | None = None,
        repeatable: Sequence[bool] | None = None,
        forward_base: Sequence[int] | None = None,
        backward_base: Sequence[int] | None = None,
        offload_cost: Sequence[float] | None = None,
        names: Sequence[str] = (),
    ) -> Problem:
        """A problem from plain lists. Left out: values are never fused, every node is repeatable, nothing else is live,
        nothing can be offloaded.

        Raises:
            ValueError: if lengths disagree, or a node uses a value that is not computed before it.
        """
        n, m = len(cost), len(uses)

        def array(values: Sequence[float] | None, default: float, length: int, dtype: Any) -> NDArray[Any]:
            result: NDArray[Any] = np.full(length, default, dtype) if values is None else np.asarray(values, dtype)
            if result.shape != (length,):
                raise ValueError(f"expected {length} numbers, one for each node or step, got {result.shape}")
            return result

        if len(operands) != n or any(not 0 <= j < i for i, js in enumerate(operands) for j in js):
            raise ValueError("operands has to name, for each node, nodes before it")
        if any(not 0 <= j < n for js in uses for j in js):
            raise ValueError(f"a step of the backward uses a node that is none of the {n}")
        sizes = array(bytes, 0, n, np.int64)
        return cls(
            array(cost, 0, n, np.float64),
            sizes,
            operands,
            uses,
            sizes if transient is None else array(transient, 0, n, np.int64),
            array(repeatable, True, n, np.bool_),
            array(forward_base, 0, n, np.int64),
            array(backward_base, 0, m, np.int64),
            array(offload_cost, np.inf, n, np.float64),
            names,
        )

    @property
    def nodes(self) -> int:
        return len(self.operands)

    @property
    def steps(self) -> int:
        return len(self.uses)

    @cached_property
    def needed(self) -> NDArray[np.int64]:
        """The nodes whose values some step uses: what is kept when nothing is recomputed."""
        return np.unique(self.use_rows.values)

    @cached_property
    def operand_rows(self) -> Ragged:
        """`operands`, flat."""
        return Ragged.of(self.operands)

    @cached_property
    def use_rows(self) -> Ragged:
        """`uses`, flat."""
        return Ragged.of(self.uses)

    @property
    def residual_bytes(self) -> int:
        """What the values that the backward uses take together."""
        return int(self.bytes[self.needed].sum())

    def graph(self) -> networkx.DiGraph:
        """The program for people and for networkx: node i with its `cost`, `bytes` and `name`, ("backward", t) for the
        steps, an edge to each user.
        """
        import networkx

        graph = networkx.DiGraph()
        for i, operands in enumerate(self.operands):
            name = self.names[i] if self.names else str(i)
            graph.add_node(i, cost=float(self.cost[i]), bytes=int(self.bytes[i]), name=name)
            graph.add_edges_from((j, i) for j in operands)
        for t, uses in enumerate(self.uses):
            graph.add_node(("backward", t), bytes=int(self.backward_base[t]))
            graph.add_edges_from((j, ("backward", t)) for j in uses)
        return graph
