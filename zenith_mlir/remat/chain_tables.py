"""Optimal checkpointing of a chain, for every amount of memory at once, by dynamic programming in O(stages² · slots ·
(stages + modes)).

    R(s, t, m)  least seconds of the backward of stages s..t, when only the input of s is there and m slots are free
    T(s, m)     the same for the stages from s to the last, whose forward, which has to run anyway, runs first

A plan keeps a checkpoint until the backward has passed it (Herrmann et al. 2019, section 4: memory persistent plans).
Either the first run of s..t keeps the input of a later stage, before which everything comes again,

    R(s, t, m) = forward(s..s'-1) + R(s', t, m - input of s') + R(s, s'-1, m)

or it is in a mode that keeps enough for the backward of its own stages.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from zenith_mlir.remat.chain import Back, Chain, Mode, Run

__all__ = ["ChainTables"]

# Enough digits to choose by, in half of the memory.
Seconds = NDArray[np.float32]
Indices = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class _Modes:
    """Some modes that begin with one stage, as columns; `number` is their place in `Stage.modes`."""

    number: Indices
    span: Indices
    bytes: Indices
    forward_cost: Seconds
    backward_cost: Seconds
    forward_peak: Indices
    backward_peak: Indices

    @classmethod
    def of(cls, modes: Sequence[Mode], numbers: Sequence[int]) -> _Modes:
        chosen = [modes[k] for k in numbers]
        return cls(
            np.array(numbers, np.int64),
            np.array([mode.span for mode in chosen], np.int64),
            np.array([mode.bytes for mode in chosen], np.int64),
            np.array([mode.forward_cost for mode in chosen], np.float32),
            np.array([mode.backward_cost for mode in chosen], np.float32),
            np.array([mode.forward_peak for mode in chosen], np.int64),
            np.array([mode.backward_peak for mode in chosen], np.int64),
        )


class ChainTables:
    """`cost[m]` are the least seconds with m slots of `slot_bytes` beside the input of the chain, for 0 to `slots`;
    infinite where there is no plan. Bytes are rounded up or down to slots: exact where `slot_bytes` is 1.
    """

    def __init__(self, chain: Chain, slots: int, slot_bytes: int = 1):
        self.chain = chain
        self.slot_bytes = slot_bytes
        self.memory = np.arange(slots + 1)
        stages, end = chain.stages, len(chain.stages)
        # From which part of a slot on what waits in each stage is rounded up: spread evenly over any stages in a row,
        # so that what equal ones keep adds up to what it is.
        self.rounding = np.arange(end) * (5**0.5 - 1) / 2 % 1
        self.inputs = np.floor(chain.inputs / slot_bytes + (self.rounding + 0.5) % 1).astype(np.int64)
        # Seconds of the forwards before each stage.
        self.before = np.cumsum([0.0, *(stage.modes[0].forward_cost for stage in stages)]).astype(np.float32)
        self.peaks = np.array([stage.modes[0].forward_peak for stage in stages], np.int64)
        self.base = np.array([stage.base for stage in stages], np.int64)
        self.backward_base = np.array([stage.backward_base for stage in stages], np.int64)
        # Modes whose backward follows their forward at once, modes that wait for other stages, and modes at the end.
        self.alone, self.keeping, self.ending = [], [], []
        for s, stage in enumerate(stages):
            numbered = [(k, mode, s + mode.span) for k, mode in enumerate(stage.modes)]
            self.alone.append(_Modes.of(stage.modes, [k for k, mode, stop in numbered if mode.alone and stop < end]))
            self.keeping.append(
                _Modes.of(stage.modes, [k for k, mode, stop in numbered if not mode.alone and stop < end])
            )
            self.ending.append(_Modes.of(stage.modes, [k for k, _, stop in numbered if stop == end]))
        self.again = np.full((end, end, slots + 1), np.inf, np.float32)
        self.first = np.full((end, slots + 1), np.inf, np.float32)
        for s in reversed(range(end)):
            if s < end - 1:
                self._fill_again(s)
            self._fill_first(s)
        self.cost: Seconds = self.first[0]

    def moves(self, slots: int) -> Iterator[Run | Back]:
        """The plan that takes `cost[slots]` seconds, which have to be finite."""
        return self._first_moves(0, slots)

    def _slots(self, sizes: Indices) -> Indices:
        """Bytes that are needed for a moment, to the nearest slot."""
        slots: Indices = (sizes + self.slot_bytes // 2) // self.slot_bytes
        return slots

    def _kept(self, s: int, modes: _Modes) -> Indices:
        """Slots that wait for the backward of each mode while the stages after it run."""
        inside = np.floor(modes.bytes / self.slot_bytes + self.rounding[s]).astype(np.int64)
        kept: Indices = inside + self.inputs[s, s + modes.span]
        return kept

    def _passing(self, s: int, end: int) -> Indices:
        """Bytes live, at the least, in the forward of each stage from s to `end` - 1 when it starts at s."""
        peaks: Indices = self.peaks[s:end].copy()
        peaks[1:] += self.chain.passing[s, s + 1 : end]
        return peaks

    def _first_least(self, s: int, modes: _Modes) -> Indices:
        """Bytes that each mode of stage s needs when its forward is the first."""
        base = np.maximum.accumulate(self.base[s:])[modes.span - 1]
        least: Indices = np.maximum(modes.backward_peak, modes.forward_peak + base)
        return least

    def _from(self, least: Indices, seconds: Seconds | float) -> Seconds:
        """`seconds` where there is memory for `least` bytes, infinity below."""
        enough = self.memory >= self._slots(least)[..., None]
        return np.where(enough, np.asarray(seconds, np.float32)[..., None], np.float32(np.inf))

    def _fill_again(self, s: int) -> None:
        """R(s, t, m) for all t and m."""
        last = len(self.chain.stages) - 1
        # rows[t - s]. The last stage is no t: its backward follows its first forward.
        rows = self.again[s, s:-1]
        alone, keeping = self.alone[s], self.keeping[s]
        for span, cost in zip(alone.span.tolist(), self._from(alone.backward_peak, alone.backward_cost), strict=True):
            np.minimum(rows[span - 1], cost, out=rows[span - 1])
        seconds = keeping.forward_cost + keeping.backward_cost
        for k, (span, kept) in enumerate(zip(keeping.span.tolist(), self._kept(s, keeping).tolist(), strict=True)):
            least = keeping.forward_peak[k] + self.backward_base[s + span : last]
            cost = self._from(np.maximum(keeping.backward_peak[k], least), seconds[k])[:, kept:]
            cost += _less(self.again[s + span, s + span : -1], kept)
            np.minimum(rows[span:, kept:], cost, out=rows[span:, kept:])
        # What the forward up to t needs whatever it keeps.
        needs = np.maximum.accumulate(self._passing(s, last - 1)) + self.backward_base[s + 1 : last]
        passing = self._from(needs, 0.0)
        buffer = np.empty_like(rows)
        for stop in range(s + 1, last):
            # What ends before `stop` is done last, and before it whatever starts there, up to any t.
            kept = int(self.inputs[s, stop])
            later = _less(self.again[stop, stop:-1], kept)
            earlier = rows[stop - 1 - s, kept:] + (self.before[stop] - self.before[s])
            sums = np.add(later, earlier, out=buffer[stop - s :, : later.shape[1]])
            np.minimum(rows[stop - s :, kept:], sums, out=rows[stop - s :, kept:])
            rows[stop - s] += passing[stop - s - 1]

    def _fill_first(self, s: int) -> None:
        """T(s, m) for all m."""
        best, end = self.first[s], len(self.chain.stages)
        keeping, ending = self.keeping[s], self.ending[s]
        costs = self._from(self._first_least(s, keeping), keeping.backward_cost)
        for cost, stop, kept in zip(costs, s + keeping.span, self._kept(s, keeping), strict=True):
            np.minimum(best[kept:], cost[kept:] + _less(self.first[stop], kept), out=best[kept:])
        for stop in range(s + 1, end):
            kept = int(self.inputs[s, stop])
            np.minimum(best[kept:], self.again[s, stop - 1, kept:] + _less(self.first[stop], kept), out=best[kept:])
        if s < end - 1:
            best += self._from((self._passing(s, end - 1) + self.base[s:-1]).max(), 0.0)
        for cost in self._from(self._first_least(s, ending), ending.backward_cost):
            np.minimum(best, cost, out=best)

    def _first_moves(self, s: int, slots: int) -> Iterator[Run | Back]:
        stop, mode, kept = self._first_choice(s, slots)
        yield Run(s, stop, mode, None)
        if stop < len(self.chain.stages):
            yield from self._first_moves(stop, slots - kept)
        if mode or stop == len(self.chain.stages):
            yield Back(s, mode)
        else:
            yield from self._again_moves(s, stop - 1, slots)

    def _first_choice(self, s: int, slots: int) -> tuple[int, int, int]:
        """Stop, mode and slots kept with which T(s, slots) is reached."""
        ending, keeping, stops = self.ending[s], self.keeping[s], np.arange(s + 1, len(self.chain.stages))
        kept = self._kept(s, keeping)
        enough = slots >= np.maximum(kept, self._slots(self._first_least(s, keeping)))
        kept_by_stops = self.inputs[s, stops]
        return _least(
            _Options(
                np.where(slots >= self._slots(self._first_least(s, ending)), ending.backward_cost, np.inf),
                s + ending.span,
                ending.number,
                np.zeros_like(ending.number),
            ),
            _Options(
                np.where(enough, keeping.backward_cost + _at(self.first[s + keeping.span], slots - kept), np.inf),
                s + keeping.span,
                keeping.number,
                kept,
            ),
            _Options(
                self.again[s, stops - 1, slots] + _at(self.first[stops], slots - kept_by_stops),
                stops,
                np.zeros_like(stops),
                kept_by_stops,
            ),
        )

    def _again_moves(self, s: int, t: int, slots: int) -> Iterator[Run | Back]:
        stop, mode, kept = self._again_choice(s, t, slots)
        if stop > t:
            yield Back(s, mode)
            return
        yield Run(s, stop, mode, t)
        yield from self._again_moves(stop, t, slots - kept)
        yield from [Back(s, mode)] if mode else self._again_moves(s, stop - 1, slots)

    def _again_choice(self, s: int, t: int, slots: int) -> tuple[int, int, int]:
        """Stop, mode and slots kept with which R(s, t, slots) is reached; a stop after t where the mode covers t."""
        alone, keeping, stops = self.alone[s], self.keeping[s], np.arange(s + 1, t + 1)
        kept = self._kept(s, keeping)
        least = np.maximum(keeping.backward_peak, keeping.forward_peak + self.backward_base[t])
        enough = (s + keeping.span <= t) & (slots >= np.maximum(kept, self._slots(least)))
        seconds = keeping.forward_cost + keeping.backward_cost
        covers = (s + alone.span == t + 1) & (slots >= self._slots(alone.backward_peak))
        kept_by_stops = self.inputs[s, stops]
        return _least(
            _Options(
                np.where(covers, alone.backward_cost, np.inf),
                s + alone.span,
                alone.number,
                np.zeros_like(alone.number),
            ),
            _Options(
                np.where(enough, seconds + _at(self.again[s + keeping.span, t], slots - kept), np.inf),
                s + keeping.span,
                keeping.number,
                kept,
            ),
            _Options(
                (self.before[stops] - self.before[s])
                + self.again[s, stops - 1, slots]
                + _at(self.again[stops, t], slots - kept_by_stops),
                stops,
                np.zeros_like(stops),
                kept_by_stops,
            ),
        )


class _Options(NamedTuple):
    """Ways to go on: their seconds, where their runs stop, their modes and the slots that they keep."""

    seconds: NDArray[Any]
    stop: Indices
    mode: Indices
    kept: Indices


def _least(*options: _Options) -> tuple[int, int, int]:
    seconds, stop, mode, kept = (np.concatenate(column) for column in zip(*options, strict=True))
    best = int(seconds.argmin())
    return int(stop[best]), int(mode[best]), int(kept[best])


def _at(table: Seconds, memory: Indices) -> Seconds:
    """`table[k, memory[k]]` for each k, infinite where that is negative."""
    found: Seconds = np.where(memory >= 0, table[np.arange(len(memory)), memory], np.float32(np.inf))
    return found


def _less(table: Seconds, kept: int) -> Seconds:
    """The columns of `table` for memories from `kept` on, when so much of it is kept."""
    return table[..., : max(table.shape[-1] - kept, 0)]
