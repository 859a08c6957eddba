"""Optimal checkpointing of a chain of unlike stages, for every amount of memory at once.

The model is that of Herrmann, Beaumont, Eyraud-Dubois et al. 2019, "Optimal checkpointing for heterogeneous chains: how
to train deep neural networks with limited memory" (rotor), with the stages of Zhao et al. 2023, "Rockmate", that have
several modes: what they keep between their forward and their backward, and what they recompute for it. Plans are those
that keep a checkpoint until the backward has passed it.

    R(s, t, m)  least seconds of the backward of stages s..t, when only the input of s is there and m bytes are free
    T(s, m)     the same for the stages from s to the last, whose forward, which has to run anyway, runs first
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate

import numpy as np
from numpy.typing import NDArray

__all__ = ["Back", "Chain", "ChainSolution", "Mode", "Run", "Stage"]

# Enough digits to choose by, in half of the memory.
Seconds = NDArray[np.float32]


@dataclass(frozen=True)
class Mode:
    """A way to run `span` stages as one: the forward in `forward_cost` seconds keeps `bytes` beside the input of the
    first and the output of the last, from which the backward recomputes the rest in `backward_cost` seconds. A mode
    that is `alone` keeps nothing: its backward starts from the input, with nothing between forward and backward.

    The peaks are bytes live at most in either, the input left out. That of the backward has all that is live then, that
    of the forward lacks the stages' `base`. No peak is below what the stages need that run one after the other and keep
    nothing.
    """

    bytes: int
    forward_cost: float
    backward_cost: float
    forward_peak: int
    backward_peak: int
    span: int = 1
    alone: bool = False


@dataclass(frozen=True)
class Stage:
    """The modes that begin with this stage. `modes[0]` is alone and of this stage only.

    `base` is what else is live while the forward first runs, `backward_base` when the backward of this stage begins and
    the stages before it may run again.
    """

    modes: tuple[Mode, ...]
    base: int = 0
    backward_base: int = 0


@dataclass(frozen=True)
class Run:
    """Run the forward of stages `start` to `stop` - 1 and keep the input of `stop`, and what the mode with the number
    `mode` of stage `start` keeps. `before` is the stage whose backward comes next; None in the first forward.
    """

    start: int
    stop: int
    mode: int
    before: int | None


@dataclass(frozen=True)
class Back:
    """Run the backward of the stages of the mode with the number `mode` of `stage`."""

    stage: int
    mode: int


@dataclass(frozen=True, eq=False)
class Chain:
    """Stages, and `inputs[s, t]`, the bytes of the input of t that are not in the input of s, for s < t; `passing` the
    same where it is not kept but used at once. Where each input replaces the one before, rows are equal.
    """

    stages: Sequence[Stage]
    inputs: NDArray[np.int64]
    passing: NDArray[np.int64]

    @classmethod
    def of(cls, stages: Sequence[Stage], sizes: Sequence[int]) -> Chain:
        """A chain in which stage s has an input of `sizes[s]` bytes."""
        inputs = np.tile(np.asarray(sizes, np.int64), (len(stages), 1))
        return cls(stages, inputs, inputs)

    def solve(self, slots: int, slot_bytes: int = 1) -> ChainSolution:
        """The least seconds for 0, 1, ..., `slots` slots of memory, bytes rounded to the nearest slot: exact where
        `slot_bytes` is 1. Takes O(stages² · slots · (stages + modes)).
        """
        return ChainSolution(self, slots, slot_bytes)


class ChainSolution:
    """The tables of a chain. `cost[m]` are the least seconds with m slots beside the input of the chain; infinite where
    there is no plan.
    """

    def __init__(self, chain: Chain, slots: int, slot_bytes: int):
        self.chain = chain
        self.slot_bytes = slot_bytes
        self.memory = np.arange(slots + 1)
        self.inputs = self._slots(chain.inputs)
        # Seconds of the forwards before each stage.
        self.before = list(accumulate((stage.modes[0].forward_cost for stage in chain.stages), initial=0.0))
        count = len(chain.stages)
        self.again = np.full((count, count, slots + 1), np.inf, np.float32)
        self.first = np.full((count, slots + 1), np.inf, np.float32)
        for s in reversed(range(count)):
            if s < count - 1:
                self._fill_again(s)
            for _, _, kept, cost in self._first_choices(s):
                np.minimum(self.first[s, kept:], cost, out=self.first[s, kept:])
        self.cost: Seconds = self.first[0]

    def moves(self, slots: int) -> Iterator[Run | Back]:
        """The plan that takes `cost[slots]` seconds, which have to be finite."""
        return self._first_moves(0, slots)

    def _slots(self, sizes: NDArray[np.int64] | int) -> NDArray[np.int64]:
        return (np.asarray(sizes) + self.slot_bytes // 2) // self.slot_bytes

    def _kept(self, s: int, mode: Mode) -> int:
        """Slots that wait for the backward of a mode while the stages after it run."""
        return int(self._slots(mode.bytes) + self.inputs[s, s + mode.span])

    def _forward_peaks(self, s: int, end: int) -> NDArray[np.int64]:
        """Bytes live, at the least, in the forward of each stage from s to `end` - 1 when it starts at s."""
        peaks = np.array([stage.modes[0].forward_peak for stage in self.chain.stages[s:end]], np.int64)
        peaks[1:] += self.chain.passing[s, s + 1 : end]
        return peaks

    def _from(self, least: NDArray[np.int64] | int, seconds: float) -> Seconds:
        """`seconds` where there is memory for `least` bytes, infinity below."""
        return np.where(self.memory < self._slots(least)[..., None], np.float32(np.inf), np.float32(seconds))

    def _fill_again(self, s: int) -> None:
        """R(s, t, m) for all t and m."""
        stages = self.chain.stages
        last = len(stages) - 1
        # rows[t - s]. The last stage is no t: its backward follows its first forward.
        rows = self.again[s, s:-1]
        for mode in stages[s].modes:
            after = s + mode.span
            if mode.alone and after <= last:
                cost = self._from(mode.backward_peak, mode.backward_cost)
                np.minimum(rows[mode.span - 1], cost, out=rows[mode.span - 1])
            elif not mode.alone and after < last:
                kept = self._kept(s, mode)
                bases = np.array([stage.backward_base for stage in stages[after:last]], np.int64)
                least = np.maximum(mode.backward_peak, mode.forward_peak + bases)
                cost = self._from(least, mode.forward_cost + mode.backward_cost)[:, kept:]
                cost += _less(self.again[after, after:-1], kept)
                np.minimum(rows[mode.span :, kept:], cost, out=rows[mode.span :, kept:])
        # What the forward up to t needs whatever it keeps.
        bases = np.array([stage.backward_base for stage in stages[s + 1 : last]], np.int64)
        passing = self._from(np.maximum.accumulate(self._forward_peaks(s, last - 1)) + bases, 0.0)
        buffer = np.empty_like(rows)
        for stop in range(s + 1, last):
            # What ends before `stop` is done last, and before it whatever starts there, up to any t.
            kept = int(self.inputs[s, stop])
            later = _less(self.again[stop, stop:-1], kept)
            earlier = rows[stop - 1 - s, kept:] + (self.before[stop] - self.before[s])
            sums = np.add(later, earlier, out=buffer[stop - s :, : later.shape[1]])
            np.minimum(rows[stop - s :, kept:], sums, out=rows[stop - s :, kept:])
            rows[stop - s] += passing[stop - s - 1]

    def _first_choices(self, s: int) -> Iterator[tuple[int, int, int, Seconds]]:
        """What the first forward can do at stage s: stop and mode of its run, the slots that it keeps, and the seconds
        of all that comes after, for each memory from those slots on.
        """
        stages = self.chain.stages
        end = len(stages)
        bases = np.array([stage.base for stage in stages[s:]], np.int64)
        peaks = self._forward_peaks(s, end - 1) + bases[: end - 1 - s]
        passing = self._from(int(peaks.max(initial=0)), 0.0)
        for number, mode in enumerate(stages[s].modes):
            after = s + mode.span
            own = self._from(max(mode.backward_peak, mode.forward_peak + bases[: mode.span].max()), mode.backward_cost)
            if after == end:
                yield after, number, 0, own
            elif not mode.alone and after < end:
                kept = self._kept(s, mode)
                yield after, number, kept, (own + passing)[kept:] + _less(self.first[after], kept)
        for stop in range(s + 1, end):
            kept = int(self.inputs[s, stop])
            yield stop, 0, kept, (self.again[s, stop - 1] + passing)[kept:] + _less(self.first[stop], kept)

    def _first_moves(self, s: int, slots: int) -> Iterator[Run | Back]:
        end = len(self.chain.stages)
        choices = [choice for choice in self._first_choices(s) if choice[2] <= slots]
        stop, mode, kept, _ = min(choices, key=lambda choice: float(choice[3][slots - choice[2]]))
        yield Run(s, stop, mode, None)
        if stop < end:
            yield from self._first_moves(stop, slots - kept)
        if mode or stop == end:
            yield Back(s, mode)
        else:
            yield from self._again_moves(s, stop - 1, slots)

    def _again_moves(self, s: int, t: int, slots: int) -> Iterator[Run | Back]:
        stop, mode, kept = min(self._again_choices(s, t, slots))[1:]
        if stop > t:
            yield Back(s, mode)
            return
        yield Run(s, stop, mode, t)
        yield from self._again_moves(stop, t, slots - kept)
        yield from [Back(s, mode)] if mode else self._again_moves(s, stop - 1, slots)

    def _again_choices(self, s: int, t: int, slots: int) -> Iterator[tuple[float, int, int, int]]:
        """Seconds, stop, mode and slots kept of what R(s, t, slots) is the minimum of."""
        stages = self.chain.stages
        for number, mode in enumerate(stages[s].modes):
            after = s + mode.span
            if mode.alone:
                if after == t + 1 and slots >= self._slots(mode.backward_peak):
                    yield mode.backward_cost, after, number, 0
            elif after <= t:
                kept = self._kept(s, mode)
                least = max(mode.backward_peak, mode.forward_peak + stages[t].backward_base)
                if slots >= kept and slots >= self._slots(least):
                    cost = mode.forward_cost + mode.backward_cost + self.again[after, t, slots - kept]
                    yield float(cost), after, number, kept
        for stop in range(s + 1, t + 1):
            kept = int(self.inputs[s, stop])
            if slots >= kept:
                cost = self.before[stop] - self.before[s] + self.again[s, stop - 1, slots]
                yield float(cost + self.again[stop, t, slots - kept]), stop, 0, kept


def _less(table: Seconds, kept: int) -> Seconds:
    """The columns of `table` for memories from `kept` on, when so much of it is kept."""
    return table[..., : max(table.shape[-1] - kept, 0)]
