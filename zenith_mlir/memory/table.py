"""A memory report as a table for the terminal."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from zenith_mlir.memory.sizes import format_bytes
from zenith_mlir.memory.timeline import Value

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.table import Table

    from zenith_mlir.memory.memory_report import MemoryReport

__all__ = ["alike", "counted", "render", "short_op", "short_path", "sizes", "sweep"]


def render(report: MemoryReport, limit: int) -> RenderableType:
    """The sizes, and the `limit` largest values at the peak."""
    from rich.console import Group

    parts: list[RenderableType] = [_sizes(report)]
    if report.timeline is not None and len(report.timeline.moments):
        parts += ["", _summary(report), _values(report.at_peak, limit)]
    return Group(*parts)


def sizes(report: MemoryReport) -> list[tuple[str, str, str]]:
    """(what, bytes, remark) of everything that a report counts."""
    rows = [
        ("arguments", report.arguments, ""),
        ("outputs", report.outputs, ""),
        ("aliased", -report.aliased, "donated arguments that hold outputs") if report.aliased else None,
        ("temporaries", report.temporaries, "" if report.exact else "estimated, not compiled"),
        ("device total", report.total, ""),
        ("host", report.host, "") if report.host else None,
    ]
    return [(what, format_bytes(size), remark) for what, size, remark in filter(None, rows)]


def short_op(op: str) -> str:
    """The primitive in JAX's name stack: `jit(f)/jvp()/dot_general` is a `dot_general`."""
    return op.partition(";")[0].rpartition("/")[2] or op


def sweep(op: str) -> str:
    """What part of a training step an operation belongs to, by what JAX writes into its name."""
    for mark, name in (("rematted_computation", "recomputed"), ("transpose(", "backward"), ("jvp(", "forward")):
        if mark in op:
            return name
    return ""


def short_path(file: str, line: int) -> str:
    """`file:line`, relative to the working directory where the file is below it; empty where the line is not known."""
    if not line:
        return ""
    relative = os.path.relpath(file) if os.path.isabs(file) else file
    return f"{file if relative.startswith('..') else relative}:{line}"


def _sizes(report: MemoryReport) -> Table:
    from rich.table import Table

    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_column()
    table.add_column(justify="right")
    table.add_column(style="dim")
    for row in sizes(report):
        table.add_row(*row)
    return table


def _summary(report: MemoryReport) -> str:
    assert report.timeline is not None
    moment = report.timeline.moments[report.timeline.peak_at]
    place = f"operation {report.timeline.peak_at + 1} of {len(report.timeline.moments)}, {short_op(moment.op)}"
    return f"peak of {format_bytes(report.peak)} of temporaries at {place}"


def _values(values: list[Value], limit: int) -> Table:
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    for name in ("bytes", "shape", "made by", "in", "source"):
        # A path that is too long goes on in the next line: its end is what matters.
        table.add_column(name, justify="right" if name == "bytes" else "left", overflow="fold")
    rows = alike(values)
    for row in rows[:limit]:
        op = row[0].moment.op
        table.add_row(
            format_bytes(_bytes(row)),
            counted(row),
            short_op(op),
            sweep(op),
            short_path(row[0].moment.file, row[0].moment.line),
        )
    if rest := [value for row in rows[limit:] for value in row]:
        table.add_row(format_bytes(_bytes(rest)), f"{len(rest)} other values")
    return table


def alike(values: list[Value]) -> list[list[Value]]:
    """Values of one shape that one operation of one line makes, together; those that take most first."""
    groups: dict[tuple[str, str, str, str], list[Value]] = {}
    for value in values:
        key = (value.shape, short_op(value.moment.op), sweep(value.moment.op), value.source)
        groups.setdefault(key, []).append(value)
    return sorted(groups.values(), key=_bytes, reverse=True)


def counted(values: list[Value]) -> str:
    """`3 × f32[8,128]`."""
    return f"{len(values)} × {values[0].shape}" if len(values) > 1 else values[0].shape


def _bytes(values: list[Value]) -> int:
    return sum(value.bytes for value in values)
