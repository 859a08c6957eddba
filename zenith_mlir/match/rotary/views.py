"""What the dimensions of a value run over, seen from the result of a possible rotation: features, or axes by name."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from jaxlib.mlir import ir

from zenith_mlir.ir.facts import element_type, shape
from zenith_mlir.match.axes import Axis
from zenith_mlir.match.rotary.entries import Entries

if TYPE_CHECKING:
    from zenith_mlir.match.rotary.reader import Reader

FEATURES = None
Dim = tuple[Axis, ...] | None
View = tuple[Dim, ...]

# Reads an operand that has a given view.
Read = Callable[[ir.Value, View], Entries]
# The entries of the result of an operation whose result has a given view; None if it is not read through.
Combine = Callable[["Reader", ir.Operation, View, Read], Entries | None]


def features_of(view: View) -> tuple[int, ...]:
    """The dimensions that run over features."""
    return tuple(i for i, dim in enumerate(view) if dim is FEATURES)


def extents(value: ir.Value, view: View) -> list[int]:
    """The dimensions of the entries of `value`: one where it runs over other axes. A complex number is two features."""
    dims = [size if dim is FEATURES else 1 for dim, size in zip(view, shape(value), strict=True)]
    return [*dims, 2] if isinstance(element_type(value), ir.ComplexType) else dims


def along(view: View, ranges: Sequence[slice]) -> tuple[slice, ...]:
    """An index into entries that has effect along features only."""
    return (slice(None), *(r if dim is FEATURES else slice(None) for dim, r in zip(view, ranges, strict=True)))
