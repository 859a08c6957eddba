"""A precision report as tables for the terminal."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from zenith_mlir.memory.table import short_path
from zenith_mlir.precision.precision_report import Line, PrecisionReport, Row

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.table import Table

__all__ = ["render"]


def render(report: PrecisionReport, limit: int) -> RenderableType:
    """The `limit` values of largest error, the `limit` lines that matter most, and the results."""
    from rich.console import Group

    lines = [line for line in report.lines if line.overflow or line.effect][:limit]
    parts: list[RenderableType] = [_values(report.rows, limit), "", _lines(lines, report.suggested())]
    return Group(
        *parts, "", _values(sorted(report.results, key=lambda row: (row.zero, -row.error)), limit), _summary(report)
    )


def _values(rows: Sequence[Row], limit: int) -> Table:
    table = _table("error", "own error", "overflow", "underflow", value="type", op="op", source="source")
    for row in rows[:limit]:
        error = "zero" if row.zero else f"{row.error:.1e}"
        own = "" if row.op.startswith("result") else f"{row.own_error:.1e}"
        counts = (f"{n} of {row.count}" if n else "" for n in (row.overflow, row.underflow))
        shape = f"{row.dtype}[{','.join(map(str, row.shape))}]"
        table.add_row(error, own, *counts, shape, row.op, short_path(row.file, row.line))
    if (rest := len(rows) - limit) > 0:
        table.add_row("", "", "", "", f"{rest} others of smaller error")
    return table


def _lines(lines: Sequence[Line], suggested: Sequence[str]) -> Table:
    table = _table("effect", deny="deny", ops="ops", source="source")
    for line in lines:
        effect = f"{line.overflow} overflow" if line.overflow else f"{line.effect:.1e}"
        pattern = f"{line.pattern} *" if line.pattern in suggested else line.pattern
        table.add_row(effect, pattern, ", ".join(line.ops), short_path(line.file, line.line))
    return table


def _table(*numbers: str, **texts: str) -> Table:
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    for name in numbers:
        table.add_column(name, justify="right", no_wrap=True)
    for name in texts.values():
        table.add_column(name, overflow="fold")
    return table


def _summary(report: PrecisionReport) -> str:
    parts = [f"{len(report.rows)} values after {report.pipeline or 'no pass'}, inputs {report.inputs}"]
    parts += [f"{report.lost} not found after the pipeline"] if report.lost else []
    parts += [f"{report.unseen} operations in branches not looked at"] if report.unseen else []
    if suggested := report.suggested():
        parts.append(f"to deny (*): {' '.join(suggested)}")
    return "; ".join(parts)
