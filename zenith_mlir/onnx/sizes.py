"""What the sizes in a program mean to the file: numbers, or expressions of symbolic dimensions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

import onnx_ir as oir

if TYPE_CHECKING:
    from zenith_mlir.onnx.builder import Builder
    from zenith_mlir.onnx.view import View

__all__ = ["Sizes", "StaticSizes"]


class Sizes(Protocol):
    """Between the sizes of the program, all numbers, and the shapes of the file."""

    def bind(self, index: int, view: View) -> None:
        """Argument `index` of main is this view of an input of the file."""

    def named(self, shape: Sequence[int]) -> list[int | str]:
        """As the file states a shape: symbolic sizes by their expression."""

    def numbers(self, shape: oir.Shape) -> tuple[int, ...]:
        """The inverse of `named`."""

    def is_symbolic(self, size: int) -> bool: ...

    def vector(self, builder: Builder, sizes: Sequence[int]) -> oir.Value:
        """A vector of int64, computed from the inputs where a size is symbolic."""

    def reshape_target(self, builder: Builder, old: Sequence[int], new: Sequence[int]) -> oir.Value:
        """The shape operand of a Reshape; it may use 0 and -1."""


class StaticSizes:
    """A program without symbolic dimensions."""

    def bind(self, index: int, view: View) -> None:
        pass

    def named(self, shape: Sequence[int]) -> list[int | str]:
        return list(shape)

    def numbers(self, shape: oir.Shape) -> tuple[int, ...]:
        return tuple(int(size) for size in shape)  # type: ignore[arg-type]

    def is_symbolic(self, size: int) -> bool:
        return False

    def vector(self, builder: Builder, sizes: Sequence[int]) -> oir.Value:
        return builder.ints(sizes)

    def reshape_target(self, builder: Builder, old: Sequence[int], new: Sequence[int]) -> oir.Value:
        return builder.ints(new)
