"""Where in the user's own Python an operation comes from."""

from __future__ import annotations

import functools
import os
import sysconfig
from collections.abc import Iterator
from typing import NamedTuple

from jaxlib.mlir import ir

__all__ = ["UNKNOWN", "Frame", "enclosing_function", "frames", "names", "source_frame"]


class Frame(NamedTuple):
    """One line of source. `name` is the Python function JAX recorded for it, empty if there is none."""

    file: str
    line: int
    col: int
    name: str = ""


UNKNOWN = Frame("<unknown>", 0, 0)


def source_frame(location: ir.Location) -> Frame:
    """The innermost frame in the user's own code, else the innermost frame, else `UNKNOWN`."""
    innermost = None
    for frame in frames(location):
        if is_user_code(frame.file):
            return frame
        innermost = innermost or frame
    return innermost or UNKNOWN


def frames(location: ir.Location, name: str = "") -> Iterator[Frame]:
    """Every file position in a location, innermost call first."""
    match location:
        case ir.FileLineColLoc():
            yield Frame(location.filename, location.start_line, location.start_col, name)
        case ir.NameLoc():
            yield from frames(location.child_loc, location.name_str)
        case ir.CallSiteLoc():
            yield from frames(location.callee)
            yield from frames(location.caller)
        case ir.FusedLoc():
            for part in location.locations:
                yield from frames(part)  # type: ignore[arg-type]  # jaxlib's stub says object


def names(location: ir.Location) -> Iterator[str]:
    """Every name in a location, outermost first: `jit(f)/jvp(block)/dot_general` and the Python functions around."""
    match location:
        case ir.NameLoc():
            yield location.name_str
            yield from names(location.child_loc)
        case ir.CallSiteLoc():
            yield from names(location.callee)
            yield from names(location.caller)
        case ir.FusedLoc():
            for part in location.locations:
                yield from names(part)  # type: ignore[arg-type]  # jaxlib's stub says object


def enclosing_function(op: ir.Operation) -> str:
    """The symbol of the function around `op` (of `op` itself if it is one); empty outside of any function."""
    current: ir.Operation | None = op.operation
    while current is not None:
        if current.name == "func.func":
            return ir.StringAttr(current.attributes["sym_name"]).value
        parent = current.parent
        current = parent.operation if parent is not None else None
    return ""


@functools.lru_cache(maxsize=4096)
def is_user_code(file: str) -> bool:
    """Whether a file is neither an installed package, nor the standard library, nor this one, nor made up by
    Python.

    `<stdin>` and `<ipython-input-1>` are what the user typed.
    """
    if file.startswith(("<frozen", "<unknown", "<__array_function__")):
        return False
    path = os.path.abspath(file)
    if any(part in ("site-packages", "dist-packages") for part in path.split(os.sep)):
        return False
    return not path.startswith(_not_the_users())


@functools.cache
def _not_the_users() -> tuple[str, ...]:
    paths = sysconfig.get_paths()
    own = os.path.dirname(os.path.dirname(__file__))
    return tuple({os.path.join(path, "") for path in (paths["stdlib"], paths["platstdlib"], own)})
