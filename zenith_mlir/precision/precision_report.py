"""What a precision policy costs each value of a program, and which lines of it to leave out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from zenith_mlir.json_text import dumps

if TYPE_CHECKING:
    from rich.console import RenderableType

__all__ = ["Line", "PrecisionReport", "Row"]

# An operation that adds less computes in float32, with operands that were not rounded to 16 bits.
_OF_FLOAT32 = 2.0**-15


@dataclass(frozen=True)
class Row:
    """One value of the program (in a scan: all of its iterations), or, where `op` is "result i", one of its results.

    `dtype` is that in the run, `count` the number of elements; errors and counts are those of
    `zenith_mlir.precision.value_errors.ValueErrors`. `zero` says that float64 has no digits of it either: it is zero
    in exact arithmetic, and its error means nothing.
    """

    op: str
    file: str
    line: int
    dtype: str
    shape: tuple[int, ...]
    count: int
    error: float
    own_error: float
    overflow: int = 0
    own_overflow: int = 0
    underflow: int = 0
    zero: bool = False


@dataclass(frozen=True)
class Line:
    """Operations that one pattern of `cast-precision`'s option `deny` names.

    `effect` is by how much the results of the program move, relative to their own size (the largest of them), if a
    float64 run is disturbed by the own errors of these operations and by nothing else: what to expect from denying
    them. `own_error` is the largest of their own errors; `overflow` counts the numbers that overflow there.
    """

    pattern: str
    ops: tuple[str, ...]
    file: str
    line: int
    effect: float
    own_error: float
    overflow: int = 0


@dataclass(frozen=True)
class PrecisionReport:
    """Every value of a program after `pipeline`, against float64, the largest error first.

    `results` are the results of the program, `lines` groups of operations by their effect on them. `lost` values were
    not found after the pipeline, which computes them otherwise or not at all; `unseen` operations stand in branches
    and in loops of unknown length, which count as one operation each.
    """

    pipeline: str
    inputs: str
    rows: tuple[Row, ...]
    results: tuple[Row, ...]
    lines: tuple[Line, ...]
    lost: int = 0
    unseen: int = 0

    @property
    def error(self) -> float:
        """The largest error of a result that has digits."""
        return max((row.error for row in self.results if not row.zero), default=0.0)

    @cached_property
    def overflow(self) -> Mapping[str, int]:
        """Numbers that overflowed, by dtype, each counted where it did so first."""
        return _totals(self.rows, "own_overflow")

    @cached_property
    def underflow(self) -> Mapping[str, int]:
        """Numbers that became zero or subnormal, by dtype."""
        return _totals(self.rows, "underflow")

    def suggested(self, factor: float = 2.0, limit: int = 10) -> tuple[str, ...]:
        """Patterns for `cast-precision{deny=...}`: all that overflow, then as few as it takes, by estimate, to divide
        the error of the results by `factor`; at most `limit`.

        Effects of different lines are taken to be independent: they add up by squares.
        """
        first = [line for line in self.lines if line.overflow]
        rest = [line for line in self.lines if not line.overflow and line.own_error > _OF_FLOAT32]
        left = sum(line.effect**2 for line in rest)
        goal = left / factor**2
        for line in sorted(rest, key=lambda line: -line.effect):
            if left <= goal:
                break
            first.append(line)
            left -= line.effect**2
        return tuple(line.pattern for line in first[:limit])

    def table(self, limit: int = 20) -> RenderableType:
        """The `limit` values of largest error, the lines that matter, and the results, for `rich.print`."""
        from zenith_mlir.precision.table import render

        return render(self, limit)

    def __rich__(self) -> RenderableType:
        return self.table()

    def text(self, limit: int = 20) -> str:
        """The table as plain text."""
        from rich.console import Console

        console = Console(width=140, color_system=None, highlight=False, markup=False)
        with console.capture() as capture:
            console.print(self.table(limit))
        return capture.get()

    def __str__(self) -> str:
        return self.text()

    def to_json(self) -> str:
        """All of it as one object; null stands for infinity."""
        fields = {**asdict(self), "error": self.error, "overflow": self.overflow, "underflow": self.underflow}
        return dumps({**fields, "suggested": self.suggested()})


def _totals(rows: Sequence[Row], field: str) -> dict[str, int]:
    totals: dict[str, int] = {}
    for row in rows:
        if count := getattr(row, field):
            totals[row.dtype] = totals.get(row.dtype, 0) + count
    return totals
