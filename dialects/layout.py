"""Layouts of operands in words: "b t (h g) d" says what each dimension of a value runs over, "1" a dimension of size
one.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

_DIM = re.compile(r"\(([^()]*)\)|(\S+)")


@dataclass(frozen=True)
class Layout:
    """For each dimension of a value the axes it is made of, major to minor; none where its size is one."""

    dims: tuple[tuple[str, ...], ...]

    @classmethod
    def parse(cls, text: str) -> Layout:
        """Read "b t (h g) d"; "1" is a dimension of size one.

        Raises: ValueError if an axis appears twice.
        """
        dims = tuple(
            tuple(group.split()) if group else () if name == "1" else (name,) for group, name in _DIM.findall(text)
        )
        axes = [axis for dim in dims for axis in dim]
        if len(set(axes)) != len(axes):
            raise ValueError(f"layout {text!r} names an axis twice")
        return cls(dims)

    def __str__(self) -> str:
        return " ".join("1" if not dim else dim[0] if len(dim) == 1 else f"({' '.join(dim)})" for dim in self.dims)

    @property
    def axes(self) -> tuple[str, ...]:
        """All axes in row-major order."""
        return tuple(axis for dim in self.dims for axis in dim)

    def shape(self, sizes: Mapping[str, int]) -> tuple[int, ...]:
        """The shape of a value of this layout."""
        out = []
        for dim in self.dims:
            size = 1
            for axis in dim:
                size *= sizes[axis]
            out.append(size)
        return tuple(out)

    def strides(self, sizes: Mapping[str, int]) -> dict[str, int]:
        """Elements between neighbours along each axis of a dense row-major value."""
        out, stride = {}, 1
        for axis in reversed(self.axes):
            out[axis] = stride
            stride *= sizes[axis]
        return out

    def strides_over(self, order: Sequence[str], sizes: Mapping[str, int]) -> list[int]:
        """Strides in the order of `order`; zero (the value is repeated) along axes it does not have."""
        own = self.strides(sizes)
        return [own.get(axis, 0) for axis in order]
