"""MLIR's diagnostics as one line for a user."""

from __future__ import annotations

from collections.abc import Mapping

from jaxlib.mlir import ir

from zenith_mlir.ir.location import UNKNOWN, source_frame

__all__ = ["describe", "describe_diagnostic"]


def describe(error: Exception, rename: Mapping[str, str] | None = None) -> str:
    """`file:line:col: what is wrong` for the first diagnostic of an `MLIRError`, or an error's own
    message.
    """
    for diagnostic in getattr(error, "error_diagnostics", ()):
        return describe_diagnostic(diagnostic, rename)
    return _first_line(str(error)) or type(error).__name__


def describe_diagnostic(diagnostic: ir.Diagnostic | ir.DiagnosticInfo, rename: Mapping[str, str] | None = None) -> str:
    """`file:line:col: message`; `rename` maps file names that MLIR made up to those the user knows."""
    bare = diagnostic.location
    frame = source_frame(ir.Location.from_attr(bare.attr, bare.context))  # of its own class, as everywhere else
    message = _first_line(diagnostic.message)
    if frame == UNKNOWN or frame.line == 0:
        return message
    return f"{(rename or {}).get(frame.file, frame.file)}:{frame.line}:{frame.col}: {message}"


def _first_line(message: str) -> str:
    """The first line that says something; the rest is a dump of operations."""
    return next((line.strip() for line in message.splitlines() if line.strip()), "")
