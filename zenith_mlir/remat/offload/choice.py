"""Which residuals go to the host."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from jaxlib.mlir import ir
from numpy.typing import NDArray

from zenith_mlir.remat.kinds import bytes_of
from zenith_mlir.remat.offload.link import Transfer, arrivals, departures, hides
from zenith_mlir.remat.offload.placement import HOST, is_placement, memory_of
from zenith_mlir.remat.offload.residuals import Order, Residual

__all__ = ["Choice", "Choices", "Schedule"]


@dataclass(frozen=True)
class Schedule:
    """A program in seconds: `begins` as `timeline.begins` has it, `bandwidth` of the link to the host in bytes a
    second each way.
    """

    order: Order
    begins: NDArray[np.float64]
    bandwidth: int

    def transfer(self, residual: Residual) -> Transfer:
        return self._transfer(residual.bytes, residual.made, residual.needed)

    def gap(self, residual: Residual) -> float:
        """Seconds from the forward's last use to the backward's first."""
        return float(self.begins[residual.needed] - self.begins[residual.last + 1])

    def placed(self) -> list[Transfer]:
        """The transfers that the program has already: to the host, and back at the first use of what comes back."""
        return [
            self._transfer(bytes_of(op.results[0].type), self.order.of(op), self._first_use(op)) for op in self._sent()
        ]

    def placed_bytes(self) -> int:
        """Bytes of the values that the program has on the host already."""
        return sum(bytes_of(op.results[0].type) for op in self._sent())

    def _sent(self) -> list[ir.Operation]:
        return [op for op in self.order.ops if is_placement(op) and memory_of(op) == HOST]

    def _transfer(self, size: int, made: int, needed: int) -> Transfer:
        return Transfer(size / self.bandwidth, float(self.begins[made + 1]), float(self.begins[needed]))

    def _first_use(self, placement: ir.Operation) -> int:
        """Where what `placement` sends to the host is used, past the barriers and the placement on its way back."""
        positions: list[int] = []
        stack = [placement.results[0]]
        while stack:
            for use in stack.pop().uses:
                op = use.owner.operation
                if is_placement(op):
                    stack.append(op.results[0])
                elif op.name == "stablehlo.optimization_barrier":
                    stack.append(op.results[use.operand_number])
                else:
                    positions.append(self.order.of(op))
        return min(positions, default=len(self.order.ops) - 1)


@dataclass(frozen=True)
class Choice:
    """`residual` goes to the host, is there by second `there` and starts back at second `back`; `hidden` if no time is
    lost by that.
    """

    residual: Residual
    there: float
    back: float
    hidden: bool


class Choices:
    """Chooses among `candidates`, the largest with the longest gaps first, `bytes` in all; `left` are the others."""

    def __init__(self, schedule: Schedule, candidates: Sequence[Residual]) -> None:
        self._schedule = schedule
        self._transfers = schedule.placed()
        self._taken: list[Residual] = []
        self._left = sorted(candidates, key=lambda r: (-r.bytes * max(schedule.gap(r), 0.0), r.made))
        self._placed = len(self._transfers)
        self._hidden = 0
        self.bytes = 0

    @property
    def left(self) -> list[Residual]:
        return self._left

    def take_hidden(self, enough: int | None = None) -> None:
        """Take what the link carries without making the program wait, until `enough` bytes are taken."""
        for residual in list(self._left):
            if enough is not None and self.bytes >= enough:
                break
            transfer = self._schedule.transfer(residual)
            if self._schedule.gap(residual) > 0 and hides([*self._transfers, transfer]):
                self._take(residual)
        self._hidden = len(self._taken)

    def take(self, enough: int | None = None) -> None:
        """Take what is left, until `enough` bytes are taken, whatever time that costs; what is used again at once
        stays.
        """
        for residual in sorted(self._left, key=lambda r: (-self._schedule.gap(r), r.made)):
            if enough is not None and self.bytes >= enough:
                break
            if self._schedule.gap(residual) > 0:
                self._take(residual)

    def _take(self, residual: Residual) -> None:
        self._taken.append(residual)
        self.bytes += residual.bytes
        self._transfers.append(self._schedule.transfer(residual))
        self._left.remove(residual)

    def __iter__(self) -> Iterator[Choice]:
        """What is taken, with the times of its ways.

        Where the link does not keep up, the program waits for it: a value gets twice its time for each way. Without
        that limit values would queue on the device, where there was no room for them.
        """
        there, back = arrivals(self._transfers), departures(self._transfers)
        waits = self._hidden < len(self._taken)
        for i, residual in enumerate(self._taken):
            transfer, n = self._transfers[self._placed + i], self._placed + i
            slack = 2 * transfer.seconds if waits else float("inf")
            yield Choice(
                residual,
                there=min(there[n], transfer.ready + slack),
                back=max(back[n], transfer.needed - slack),
                hidden=i < self._hidden,
            )
