"""The memory that an operation needs inside of its regions while it runs."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxlib.mlir import ir
from numpy.typing import NDArray

from zenith_mlir.remat.flow import Flow
from zenith_mlir.remat.fusion import Fused

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
    """While the anchors `order` run, the bytes of their values that are live, with what each needs inside."""
    flow = fused.flow
    position = {i: n for n, i in enumerate(order)}
    last = [len(order) - 1 if i in flow.returned else n for n, i in enumerate(order)]
    for n, i in enumerate(order):
        for j in fused.operands[i]:
            if j in position:
                last[position[j]] = max(n, last[position[j]])
    sizes = flow.bytes[list(order)]
    changes = np.zeros(len(order) + 1, np.int64)
    np.add.at(changes, np.arange(len(order)), sizes)
    np.subtract.at(changes, np.array(last, np.int64) + 1, sizes)
    live: NDArray[np.int64] = np.cumsum(changes[:-1])
    return live + np.array([workspace(flow.ops[i]) for i in order], np.int64)
