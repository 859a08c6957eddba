"""Patterns for the option `deny` of cast-precision."""

from __future__ import annotations

import os
import re

from zenith_mlir.ir.location import Frame

__all__ = ["pattern_of"]


def pattern_of(op: str, frame: Frame) -> str:
    """`model.py:12`, which names `op` and the others of its line; without a line the name of `op`.

    It is a glob. What globs, lists and pipelines read as their own in the name of a file becomes `?`.
    """
    name = re.sub(r"""[][*?,{}()"'\\\s]""", "?", os.path.basename(frame.file))
    return f"{name}:{frame.line}" if frame.line else op
