"""The link between device and host: which transfers it carries without making the program wait."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

__all__ = ["Transfer", "arrivals", "departures", "hides"]


@dataclass(frozen=True)
class Transfer:
    """A value that is there at `ready` and has to be there again at `needed`; `seconds` each way."""

    seconds: float
    ready: float
    needed: float


def hides(transfers: Sequence[Transfer]) -> bool:
    """Whether the link, which carries one value at a time in each direction, carries all of these in time."""
    return all(back >= there for there, back in zip(arrivals(transfers), departures(transfers), strict=True))


def arrivals(transfers: Sequence[Transfer]) -> list[float]:
    """When each is on the host, the first ready the first served."""
    there = [0.0] * len(transfers)
    clock = 0.0
    for i in sorted(range(len(transfers)), key=lambda i: transfers[i].ready):
        clock = there[i] = max(clock, transfers[i].ready) + transfers[i].seconds
    return there


def departures(transfers: Sequence[Transfer]) -> list[float]:
    """When the way back of each begins at the latest, so that none is late."""
    starts = [0.0] * len(transfers)
    clock = float("inf")
    for i in sorted(range(len(transfers)), key=lambda i: -transfers[i].needed):
        clock = starts[i] = min(clock, transfers[i].needed) - transfers[i].seconds
    return starts
