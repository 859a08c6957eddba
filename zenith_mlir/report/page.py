"""The findings as one self-contained HTML page."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, NamedTuple

from zenith_mlir.memory import plot, table
from zenith_mlir.memory.memory_report import MemoryReport
from zenith_mlir.memory.sizes import format_bytes
from zenith_mlir.optional import need
from zenith_mlir.remarks import KINDS, Remark
from zenith_mlir.report.findings import Findings

__all__ = ["render"]

SHOWN_VALUES = 15
SHOWN_CHOICES = 200


class Row(NamedTuple):
    """Remarks that say the same, and how often it was said."""

    remark: Remark
    times: int


def render(findings: Findings) -> str:
    """The page. It loads nothing from anywhere.

    Raises:
        ZenithError: without Jinja2 or matplotlib.
    """
    jinja2 = need("jinja2", "report")
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(os.path.dirname(__file__)),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(bytes=format_bytes, seconds=_seconds, said=_said)
    environment.globals.update(source=table.short_path)
    text: str = environment.get_template("page.html").render(
        findings=findings,
        picture=_picture(findings),
        sizes=_sizes(findings),
        peaks=[(when, _peak(memory)) for when, memory in _sides(findings)],
        remarks=_rows(findings.remarks),
        counts={kind: sum(remark.kind == kind for remark in findings.remarks) for kind in KINDS},
        choices=findings.choices[:SHOWN_CHOICES],
    )
    return text


def _sides(findings: Findings) -> list[tuple[str, MemoryReport]]:
    sides = (("before", findings.before), ("after", findings.after))
    return [(when, memory) for when, memory in sides if memory is not None]


def _picture(findings: Findings) -> str:
    """The timelines as an <svg> element; empty where there are none."""
    found = {when: memory.timeline for when, memory in _sides(findings) if memory.timeline is not None}
    return plot.svg(found, width=9.0, height=3.2) if found else ""


def _sizes(findings: Findings) -> list[tuple[str, int, int]]:
    """(what, bytes before, bytes after) of everything that is counted and not nothing."""
    before, after = findings.before, findings.after
    if before is None or after is None:
        return []
    names = ("arguments", "outputs", "aliased", "temporaries", "total", "host")
    rows = [(name, getattr(before, name), getattr(after, name)) for name in names]
    return [row for row in rows if row[1] or row[2] or row[0] == "temporaries"]


def _peak(memory: MemoryReport) -> list[dict[str, Any]]:
    """The values at the peak, those alike together."""
    groups = table.alike(memory.at_peak)
    rows = [
        {
            "bytes": sum(value.bytes for value in group),
            "shape": table.counted(group),
            "op": table.short_op(group[0].moment.op),
            "sweep": table.sweep(group[0].moment.op),
            "source": table.short_path(group[0].moment.file, group[0].moment.line),
        }
        for group in groups[:SHOWN_VALUES]
    ]
    if rest := [value for group in groups[SHOWN_VALUES:] for value in group]:
        size = sum(value.bytes for value in rest)
        rows.append({"bytes": size, "shape": f"{len(rest)} other values", "op": "", "sweep": "", "source": ""})
    return rows


def _rows(remarks: Sequence[Remark]) -> list[Row]:
    """Remarks without the choices, which have a table of their own: failures and near misses first."""
    order = ("failure", "missed", "passed", "analysis")
    counts: dict[tuple[Any, ...], list[Remark]] = {}
    for remark in remarks:
        if "choice" not in remark.args:
            key = (remark.kind, remark.pass_name, remark.op, remark.file, remark.line, remark.message)
            counts.setdefault(key, []).append(remark)
    rows = [Row(same[0], len(same)) for same in counts.values()]
    return sorted(rows, key=lambda row: order.index(row.remark.kind))


def _said(remark: Remark) -> str:
    """What a remark says beside its op, which has a column: facts or a reason."""
    if remark.reason:
        return remark.reason
    return replace(remark, kind="passed", op="", suggest="").message.removeprefix("(").removesuffix(")")


def _seconds(value: float | None) -> str:
    if value is None:
        return ""
    for unit, size in (("s", 1.0), ("ms", 1e-3), ("µs", 1e-6)):
        if value >= size:
            return f"{value / size:.3g} {unit}"
    return f"{value / 1e-9:.3g} ns" if value else "0"
