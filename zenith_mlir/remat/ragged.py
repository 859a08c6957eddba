"""Lists of different lengths in two flat arrays, so that a graph of many nodes is handled without a loop."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from itertools import chain

import numpy as np
from numpy.typing import NDArray

__all__ = ["Ragged"]

Indices = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Ragged:
    """Row r is `values[starts[r] : starts[r + 1]]`."""

    values: Indices
    starts: Indices

    @classmethod
    def of(cls, rows: Sequence[Collection[int]]) -> Ragged:
        starts = np.zeros(len(rows) + 1, np.int64)
        np.cumsum(np.fromiter(map(len, rows), np.int64, len(rows)), out=starts[1:])
        return cls(np.fromiter(chain.from_iterable(rows), np.int64, starts[-1]), starts)

    @property
    def rows(self) -> Indices:
        """The row that each value is in."""
        return np.repeat(np.arange(len(self.starts) - 1), np.diff(self.starts))

    def take(self, rows: Indices) -> tuple[Indices, Indices]:
        """The values of `rows` one after the other, and for each the position in `rows` it comes from."""
        lengths = self.starts[rows + 1] - self.starts[rows]
        where = np.repeat(np.arange(len(rows)), lengths)
        ends = np.cumsum(lengths)
        within = np.arange(len(where)) - (ends - lengths)[where]
        return self.values[self.starts[rows][where] + within], where
