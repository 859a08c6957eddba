"""What is alive when: the values of a program that take memory, over the operations in the order in which they run."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np
from numpy.typing import NDArray

__all__ = ["Moment", "Timeline", "Value"]


@dataclass(frozen=True)
class Moment:
    """An operation that runs. `op` says what it is, `file` and `line` where the user wrote it."""

    name: str
    op: str
    file: str = "<unknown>"
    line: int = 0


@dataclass(frozen=True)
class Value:
    """A value that takes `bytes` from the moment `born` to the moment `dies`, both included.

    `place` tells values apart that share memory: those alive at once in one place count once, as much as the largest.
    `moment` is the operation that makes it.
    """

    name: str
    shape: str
    bytes: int
    born: int
    dies: int
    place: tuple[int, int]
    moment: Moment
    memory: Literal["device", "host"] = "device"

    @property
    def source(self) -> str:
        """`file:line`, or the empty string where it is not known."""
        return f"{self.moment.file}:{self.moment.line}" if self.moment.line else ""


@dataclass(frozen=True)
class Timeline:
    """The temporaries of a program over its schedule. Loop bodies appear once, in their place."""

    moments: Sequence[Moment]
    values: Sequence[Value]

    @cached_property
    def live(self) -> NDArray[np.int64]:
        """Bytes of device memory in use at each moment, `(moments,)`."""
        return self._live("device")

    @property
    def peak(self) -> int:
        """The most bytes that are live at once."""
        return int(self.live.max(initial=0))

    @property
    def peak_at(self) -> int:
        """The first moment at which that is so."""
        return int(self.live.argmax()) if len(self.live) else 0

    @property
    def host_peak(self) -> int:
        """The most bytes of host memory that are in use at once."""
        return int(self._live("host").max(initial=0))

    def alive(self, moment: int) -> list[Value]:
        """The values in device memory at a moment, one for each place, the largest first."""
        places: dict[tuple[int, int], Value] = {}
        for value in self.values:
            if value.born <= moment <= value.dies and value.memory == "device":
                known = places.get(value.place)
                if known is None or (value.bytes, -value.born) > (known.bytes, -known.born):
                    places[value.place] = value
        return sorted(places.values(), key=lambda value: (-value.bytes, value.born))

    def _live(self, memory: str) -> NDArray[np.int64]:
        by_place: dict[tuple[int, int], list[Value]] = {}
        for value in self.values:
            if value.memory == memory:
                by_place.setdefault(value.place, []).append(value)
        changes = np.zeros(len(self.moments) + 1, np.int64)
        for values in by_place.values():
            for born, dies, size in _largest_of(values):
                changes[born] += size
                changes[dies + 1] -= size
        result: NDArray[np.int64] = np.cumsum(changes[:-1])
        return result


def _largest_of(values: list[Value]) -> list[tuple[int, int, int]]:
    """(first moment, last moment, bytes) of one place: at each moment the largest value that is there."""
    if len(values) == 1:
        return [(values[0].born, values[0].dies, values[0].bytes)]
    edges = sorted({value.born for value in values} | {value.dies + 1 for value in values})
    spans = []
    for start, end in itertools.pairwise(edges):
        size = max((v.bytes for v in values if v.born <= start <= v.dies), default=0)
        spans.append((start, end - 1, size))
    return spans
