"""Timelines as pictures."""

from __future__ import annotations

import io
import os
from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from zenith_mlir.errors import ZenithError
from zenith_mlir.ir.serialize import check_writable, write_file
from zenith_mlir.memory.sizes import format_bytes
from zenith_mlir.memory.timeline import Timeline
from zenith_mlir.optional import need

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["figure", "save", "svg"]

_COLORS = ("#8a8a8a", "#2f7ed8", "#c8762b")
# Stands for the color of the text around the picture until the SVG is written.
_INK = "#010203"
_STYLE = {"svg.fonttype": "none", "svg.hashsalt": "zenith", "font.family": "sans-serif"}
# The same timelines make the same file.
_UNDATED = {"svg": dict.fromkeys(("Date", "Creator", "Format", "Type")), "pdf": {"CreationDate": None}}
_INKED = ("text.color", "axes.edgecolor", "axes.labelcolor", "xtick.color", "ytick.color")


def figure(timelines: Mapping[str, Timeline], width: float = 8.0, height: float = 3.0) -> Figure:
    """Live bytes over the schedule, one line for each timeline, each along the whole width. `width` and `height` are in
    inches.

    Raises:
        ZenithError: without matplotlib.
    """
    picture: Figure = need("matplotlib.figure", "report").Figure((width, height), layout="constrained")
    axes = picture.subplots()
    highest = max((timeline.peak for timeline in timelines.values()), default=0)
    unit, name = _unit(highest)
    for (label, timeline), color in zip(timelines.items(), _COLORS, strict=False):
        live = np.append(timeline.live, timeline.live[-1:]) / unit
        along = np.linspace(0, 100, len(live))
        axes.fill_between(along, live, step="post", alpha=0.18, color=color, linewidth=0)
        text = f"{label}, peak {format_bytes(timeline.peak)}" if label else f"peak {format_bytes(timeline.peak)}"
        axes.step(along, live, where="post", color=color, linewidth=1.4, label=text)
    axes.set_xlim(0, 100)
    axes.set_ylim(0, 1.05 * highest / unit if highest else 1)
    axes.set_xlabel("% of the schedule")
    axes.set_ylabel(f"live temporaries, {name}")
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", alpha=0.2)
    # Above the curves: whatever they do, it hides nothing.
    picture.legend(loc="outside upper left", ncols=len(timelines), frameon=False)
    return picture


def svg(timelines: Mapping[str, Timeline], width: float = 8.0, height: float = 3.0) -> str:
    """An `<svg>` element for a page, in the color of the text around it.

    Raises:
        ZenithError: without matplotlib.
    """
    need("matplotlib", "report")
    text = _render("svg", timelines, _INK, width=width, height=height).decode()
    return text[text.index("<svg") :].replace(_INK, "currentColor")


def save(timeline: Timeline, path: str | os.PathLike[str]) -> None:
    """Draw one timeline into a file, whole or not at all.

    Raises:
        ZenithError: without matplotlib, for an ending that it does not know, or if the file cannot be written.
    """
    check_writable(os.fspath(path))
    kind = os.path.splitext(path)[1].removeprefix(".").lower() or "none"
    backend = need("matplotlib.backend_bases", "report")
    known = backend.FigureCanvasBase.get_supported_filetypes()
    if kind not in known:
        raise ZenithError(f"{os.fspath(path)}: a plot is saved as {', '.join(sorted(known))}, not as {kind}")
    write_file(path, _render(kind, {"": timeline}))


def _render(kind: str, timelines: Mapping[str, Timeline], ink: str = "black", **size: float) -> bytes:
    content = io.BytesIO()
    with need("matplotlib", "report").rc_context({**_STYLE, **dict.fromkeys(_INKED, ink)}):
        figure(timelines, **size).savefig(
            content, format=kind, transparent=ink != "black", dpi=150, metadata=_UNDATED.get(kind)
        )
    return content.getvalue()


def _unit(size: int) -> tuple[int, str]:
    """The unit in which `size` is read best."""
    names = ("B", "KiB", "MiB", "GiB", "TiB")
    power = min(max(size.bit_length() - 1, 0) // 10, len(names) - 1)
    return 1024**power, names[power]
