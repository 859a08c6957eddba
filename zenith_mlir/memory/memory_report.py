"""What a program takes, when, and for which of its lines."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from zenith_mlir.errors import ZenithError
from zenith_mlir.memory.timeline import Timeline, Value

if TYPE_CHECKING:
    from rich.console import RenderableType

__all__ = ["MemoryReport"]


@dataclass(frozen=True)
class MemoryReport:
    """Bytes of one program, on each device that runs it.

    `arguments` and `outputs` are its caller's; `aliased` of them are both, where an argument was donated. `temporaries`
    is what it takes besides while it runs, `host` what it has in host memory. `exact` says that these are XLA's numbers
    for a compiled program; otherwise they are an estimate from the program's text. `timeline` has the temporaries over
    the schedule; None if the backend does not say where it keeps them.
    """

    arguments: int
    outputs: int
    temporaries: int
    aliased: int
    host: int
    exact: bool
    timeline: Timeline | None

    @property
    def total(self) -> int:
        """Device memory while the program runs."""
        return self.arguments + self.outputs - self.aliased + self.temporaries

    @property
    def peak(self) -> int:
        """The most bytes of temporaries that are live at once. What XLA sets aside, `temporaries`, is more where gaps
        between them are left; 0 without a timeline.
        """
        return 0 if self.timeline is None else self.timeline.peak

    @property
    def at_peak(self) -> list[Value]:
        """The temporaries that are live at the peak, the largest first."""
        return [] if self.timeline is None else self.timeline.alive(self.timeline.peak_at)

    def table(self, limit: int = 12) -> RenderableType:
        """The sizes, and the `limit` largest values at the peak, for `rich.print`."""
        from zenith_mlir.memory.table import render

        return render(self, limit)

    def __rich__(self) -> RenderableType:
        return self.table()

    def __str__(self) -> str:
        from rich.console import Console

        console = Console(width=120, color_system=None, highlight=False)
        with console.capture() as capture:
            console.print(self.table())
        return capture.get()

    def plot(self, path: str | os.PathLike[str]) -> None:
        """Draw the timeline into a file, whole or not at all: .svg, .pdf, .png, as its ending says.

        Raises:
            ZenithError: without a timeline, without matplotlib, or if the file cannot be written.
        """
        from zenith_mlir.memory.plot import save

        if self.timeline is None:
            raise ZenithError("there is no timeline to plot: the backend does not say where it keeps its values")
        save(self.timeline, path)

    def to_json(self) -> str:
        """The sizes, the live bytes at each moment, and all values at the peak."""
        sizes = {name: getattr(self, name) for name in ("arguments", "outputs", "temporaries", "aliased", "host")}
        return json.dumps({**sizes, "total": self.total, "exact": self.exact, "peak": self.peak, **self._schedule()})

    def _schedule(self) -> dict[str, Any]:
        if self.timeline is None:
            return {"timeline": None}
        moments = [
            {**asdict(moment), "live": int(live)}
            for moment, live in zip(self.timeline.moments, self.timeline.live, strict=True)
        ]
        values = [
            {"name": v.name, "shape": v.shape, "bytes": v.bytes, "op": v.moment.op, "file": v.moment.file,
             "line": v.moment.line, "born": v.born, "dies": v.dies}
            for v in self.at_peak
        ]  # fmt: skip
        return {"peak_at": self.timeline.peak_at, "at_peak": values, "timeline": moments}
