"""View: an ONNX value seen through a permutation of its axes and through broadcasting, of which nothing is computed.

StableHLO writes every transpose and broadcast out. Here they only change how a value is looked at: elementwise
operations work on what is stored and leave their result in the same order, broadcasts are ONNX's own, and a Transpose
or Expand is emitted where somebody needs the elements in another order, once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import onnx_ir as oir

__all__ = ["View"]

Axes = tuple[int | None, ...]


@dataclass(frozen=True)
class View:
    """An array of `shape` whose dimension i is axis `axes[i]` of `value`, or, with None, repeats it.

    Axes of `value` that no dimension names have the size 1.
    """

    value: oir.Value
    axes: Axes
    shape: tuple[int, ...]

    @classmethod
    def of(cls, value: oir.Value, shape: Sequence[int]) -> View:
        """All of `value`, which has this shape, in its own order."""
        return cls(value, tuple(range(len(shape))), tuple(shape))

    @property
    def dtype(self) -> oir.DataType:
        dtype = self.value.dtype
        assert dtype is not None
        return dtype

    @property
    def rank(self) -> int:
        return len(self.shape)

    @property
    def stored_rank(self) -> int:
        stored = self.value.shape
        assert stored is not None
        return len(stored)

    @property
    def order(self) -> list[int]:
        """The dimensions that are axes of the value, in the order in which they are stored."""
        return sorted((d for d, axis in enumerate(self.axes) if axis is not None), key=lambda d: self.axes[d] or 0)

    @property
    def repeated(self) -> list[int]:
        """Dimensions of another size than 1 that repeat the value."""
        return [d for d, axis in enumerate(self.axes) if axis is None and self.shape[d] != 1]

    def transposed(self, permutation: Sequence[int]) -> View:
        """Dimension i is dimension `permutation[i]` of this."""
        return View(self.value, tuple(self.axes[d] for d in permutation), tuple(self.shape[d] for d in permutation))

    def broadcast(self, shape: Sequence[int], dimensions: Sequence[int]) -> View:
        """Of `shape`; dimension i of this is `dimensions[i]` of the result (StableHLO, broadcast_in_dim)."""
        axes: list[int | None] = [None] * len(shape)
        for own, d in enumerate(dimensions):
            if self.shape[own] == shape[d]:
                axes[d] = self.axes[own]
        return View(self.value, tuple(axes), tuple(shape))

    def reshaped(self, shape: Sequence[int]) -> View | None:
        """The same with dimensions of size 1 added and removed; None if `shape` differs in others."""
        if [size for size in self.shape if size != 1] != [size for size in shape if size != 1]:
            return None
        kept = iter([axis for axis, size in zip(self.axes, self.shape, strict=True) if size != 1])
        return View(self.value, tuple(None if size == 1 else next(kept) for size in shape), tuple(shape))

    def with_value(self, value: oir.Value) -> View:
        """The same look at another value of the same stored shape."""
        return replace(self, value=value)
