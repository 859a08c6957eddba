"""When the operations of a program run on a target.

Rather too short than too long: time that is not there hides no transfer. Elementwise operations take none, since XLA
fuses them into others.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from jaxlib.mlir import ir
from numpy.typing import NDArray

from zenith_mlir.ir.facts import element_type, float_width, is_float
from zenith_mlir.ir.loops import Loop
from zenith_mlir.remat.costs import flops, moved
from zenith_mlir.remat.offload.placement import is_placement
from zenith_mlir.remat.offload.residuals import CHEAP, Order
from zenith_mlir.target import Target

__all__ = ["begins", "link_of"]

# Dense products of 16-bit floats a second, by compute capability, as NVIDIA's data sheets have it: V100, T4, A100, A10,
# L4, H100, B200, RTX 5090; programs get about half of that. TF32 is half as fast, float64 a sixteenth.
_RATES = {70: 125e12, 75: 65e12, 80: 312e12, 86: 125e12, 89: 121e12, 90: 989e12, 100: 2250e12, 120: 419e12}
_REACHED = 0.5
_SLOWDOWN = {32: 2.0, 64: 16.0}
# Bytes a second of 16 lanes of PCIe 3, 4 and 5, as copies of 1 GiB reach them (an H100: 53.5e9).
_LINKS = {70: 12e9, 80: 25e9, 90: 50e9}
_BANDWIDTH = 1e12  # bytes a second, where the target does not say

_PRODUCTS = ("stablehlo.dot_general", "stablehlo.convolution", "stablehlo.composite")


def begins(order: Order, module: ir.Operation, target: Target) -> NDArray[np.float64]:
    """Entry i: seconds after the start of the block when its operation i begins; the last entry is the end."""
    clock = _Clock(module, target)
    return np.concatenate([[0.0], np.cumsum([clock.seconds(op) for op in order.ops])])


def link_of(target: Target) -> int:
    """Bytes a second between the target and its host, each way."""
    return int(_of(_LINKS, target))


def _of(table: Mapping[int, float], target: Target) -> float:
    """The entry of the newest architecture that is not newer than the target's."""
    return table[max((c for c in table if c <= target.compute_capability), default=min(table))]


class _Clock:
    def __init__(self, module: ir.Operation, target: Target) -> None:
        self._module = module
        self._rate = _REACHED * _of(_RATES, target)
        self._bandwidth = target.bandwidth or _BANDWIDTH

    def seconds(self, op: ir.Operation) -> float:
        if op.name == "stablehlo.while":
            counter = Loop(op).counter
            return (counter[1] if counter else 1) * self._region(op.regions[1])
        if op.name in ("stablehlo.case", "stablehlo.if"):
            return min(self._region(region) for region in op.regions)
        if op.name in CHEAP or op.name == "stablehlo.optimization_barrier" or is_placement(op):
            return 0.0
        return max(moved(op) / self._bandwidth, self._arithmetic(op))

    def _region(self, region: ir.Region) -> float:
        return sum(self.seconds(op.operation) for block in region.blocks for op in block.operations)

    def _arithmetic(self, op: ir.Operation) -> float:
        if op.name not in _PRODUCTS:
            return 0.0
        element = element_type(op.operands[0])
        slowdown = _SLOWDOWN.get(float_width(element), 1.0) if is_float(element) else 1.0
        return flops(op, self._module) * slowdown / self._rate
