"""Patterns for the option `deny` of cast-precision."""

from __future__ import annotations

import os

from zenith_mlir.ir.location import Frame

__all__ = ["pattern_of"]


def pattern_of(op: str, frame: Frame) -> str:
    """What names `op` and the others of its line."""
    return f"{os.path.basename(frame.file)}:{frame.line}" if frame.line else op
