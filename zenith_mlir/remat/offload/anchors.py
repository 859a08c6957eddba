"""What of the program transfers are tied to: values that are there at a given time."""

from __future__ import annotations

import heapq
from collections.abc import Collection, Iterator
from itertools import count

from jaxlib.mlir import ir
from numpy import float64
from numpy.typing import NDArray

from zenith_mlir.ir.facts import element_type, is_float, users
from zenith_mlir.remat.kinds import FREE, outer_operands
from zenith_mlir.remat.offload.placement import is_placement
from zenith_mlir.remat.offload.residuals import CHEAP, Order, Residual

__all__ = ["Anchors"]


class Anchors:
    """Of a block whose first `forward` operations are the forward, with the times at which its operations begin.

    Results of elementwise operations come last: a barrier behind one would keep XLA from fusing it into its users.
    Those of `taken` are none: they are replaced by copies.
    """

    def __init__(self, order: Order, forward: int, begins: NDArray[float64], taken: Collection[ir.Value]) -> None:
        self._order, self._forward, self._begins, self._taken = order, forward, begins, taken
        self._operands: dict[int, list[tuple[int, ir.Value]]] = {}

    def activation(self, residual: Residual, at: float) -> ir.Value | None:
        """The value of the forward that waits until `residual` is on the host: the first since its last use that is
        there at second `at` and goes on to something else in the forward. None if the forward ends before.
        """
        for i in range(max(residual.last, residual.made + 1), self._forward):
            op = self._order.ops[i]
            if self._begins[i + 1] < at or op.name in CHEAP or op.name in FREE or is_placement(op):
                continue
            for value in op.results:
                if _is_float(value) and any(i < self._order.of(user) < self._forward for user in users(value)):
                    return value
        return None

    def cotangent(self, residual: Residual, at: float) -> ir.Value | None:
        """The value of the backward that the way back of `residual` waits for: of those from which its first use is
        computed the last that is there at second `at`, else the first of them. None if there is none.
        """
        earliest: ir.Value | None = None
        fused: ir.Value | None = None
        for position, value in self._backward_of(residual.needed):
            if value in self._taken or not _is_float(value):
                continue
            if self._order.ops[position].name in CHEAP:
                fused = fused or value
            else:
                earliest = value
                if self._begins[position + 1] <= at:
                    break
        return earliest or fused

    def _backward_of(self, position: int) -> Iterator[tuple[int, ir.Value]]:
        """The values of the backward, with their positions, from which the operation there is computed, the last one
        first.
        """
        number = count()
        heap = [(-made, next(number), value) for made, value in self._used_by(position)]
        heapq.heapify(heap)
        seen = {value for _, _, value in heap}
        while heap:
            made, _, value = heapq.heappop(heap)
            source = self._order.ops[-made]
            if source.name in FREE or is_placement(source):
                continue
            yield -made, value
            for earlier, operand in self._used_by(-made):
                if operand not in seen:
                    seen.add(operand)
                    heapq.heappush(heap, (-earlier, next(number), operand))

    def _used_by(self, position: int) -> list[tuple[int, ir.Value]]:
        """Values of the backward that the operation at `position` uses, with their positions."""
        if position not in self._operands:
            values = ((self._order.made(value), value) for value in outer_operands(self._order.ops[position]))
            self._operands[position] = [(made, value) for made, value in values if made >= self._forward]
        return self._operands[position]


def _is_float(value: ir.Value) -> bool:
    return isinstance(value.type, ir.RankedTensorType) and is_float(element_type(value))
