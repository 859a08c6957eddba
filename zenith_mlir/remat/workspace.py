"""The memory that an operation needs inside of its regions while it runs."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxlib.mlir import ir
from numpy.typing import NDArray

from zenith_mlir.remat.flow import Flow
from zenith_mlir.remat.fusion import Fused
from zenith_mlir.remat.kinds import FUSED

__all__ = ["live_bytes", "workspace"]

_WITH_BODIES = frozenset({"stablehlo.while", "stablehlo.case", "stablehlo.if"})


def workspace(op: ir.Operation) -> int:
    """Bytes of temporaries inside of a loop or of the largest branch; 0 for other operations."""
    if op.name not in _WITH_BODIES:
        return 0
    return max((_peak(block) for region in op.regions for block in region.blocks), default=0)


def _peak(block: ir.Block) -> int:
    flow = Flow(block)
    fused = Fused(flow)
    anchors = [i for i, is_anchor in enumerate(fused.is_anchor) if is_anchor]
    return int(live_bytes(fused, anchors).max(initial=0))


def live_bytes(fused: Fused, order: Sequence[int]) -> NDArray[np.int64]:
    """While the anchors `order` run, the bytes of their values that are live, with what each needs inside.

    A loop over elements writes its result over an operand of the same size that nobody reads again.
    """
    flow = fused.flow
    position = {i: n for n, i in enumerate(order)}
    last = [len(order) - 1 if i in flow.returned else n for n, i in enumerate(order)]
    for n, i in enumerate(order):
        for j in fused.operands[i]:
            if j in position:
                last[position[j]] = max(n, last[position[j]])

    def reused(n: int, i: int) -> int:
        size = int(flow.bytes[i])
        ending = (j for j in fused.operands[i] if j in position and last[position[j]] == n)
        return size if flow.ops[i].name in FUSED and any(flow.bytes[j] == size for j in ending) else 0

    sizes = flow.bytes[list(order)]
    changes = np.zeros(len(order) + 1, np.int64)
    np.add.at(changes, np.arange(len(order)), sizes)
    np.subtract.at(changes, np.array(last, np.int64) + 1, sizes)
    live: NDArray[np.int64] = np.cumsum(changes[:-1])
    inside = np.array([workspace(flow.ops[i]) - reused(n, i) for n, i in enumerate(order)], np.int64)
    return live + inside
