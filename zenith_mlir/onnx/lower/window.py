"""Windows that slide along dimensions, as StableHLO's convolution and reduce_window have them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as oir
from jaxlib.mlir import ir

from zenith_mlir.ir.facts import int_list
from zenith_mlir.onnx.builder import Builder
from zenith_mlir.onnx.convert import NotConvertible
from zenith_mlir.onnx.lower.shape import pad_axes, spread

__all__ = ["Window", "padded", "patches", "window_attributes", "windows"]


@dataclass(frozen=True)
class Window:
    """Along one dimension: `base - 1` holes between elements, then `low` and `high` elements of padding around them;
    a window looks at `size` positions that are `dilation` apart, and moves by `stride`.
    """

    size: int = 1
    stride: int = 1
    low: int = 0
    high: int = 0
    base: int = 1
    dilation: int = 1

    @property
    def span(self) -> int:
        return (self.size - 1) * self.dilation + 1

    @property
    def is_trivial(self) -> bool:
        return self.size == self.stride == self.base == 1 and self.low == self.high == 0

    def positions(self, length: int) -> np.ndarray[Any, Any]:
        """Which of `length` elements window i has at its place j; `length` for padding and holes."""
        spread_length = max((length - 1) * self.base + 1, 0) if length else 0
        count = max((spread_length + self.low + self.high - self.span) // self.stride + 1, 0)
        at = np.arange(count)[:, None] * self.stride + np.arange(self.size) * self.dilation - self.low
        inside = (at >= 0) & (at < spread_length) & (at % self.base == 0)
        return np.where(inside, at // self.base, length)


def windows(op: ir.Operation, sizes: Sequence[int], base: str, dilation: str) -> list[Window]:
    """A window for each of `sizes`; `base` and `dilation` are the names of attributes."""
    count = len(sizes)
    lists = [int_list(op, name) or [1] * count for name in ("window_strides", base, dilation)]
    padding = [0] * (2 * count)
    if "padding" in op.attributes:
        padding = [int(x) for x in np.asarray(ir.DenseIntElementsAttr(op.attributes["padding"])).reshape(-1)]
    lows, highs = padding[0::2], padding[1::2]
    return [Window(*row) for row in zip(sizes, lists[0], lows, highs, *lists[1:], strict=True)]


def padded(
    builder: Builder, value: oir.Value, axes: Sequence[int], given: Sequence[Window], fill: oir.Value, narrow: bool
) -> tuple[oir.Value, list[Window]]:
    """Holes and padding that a node's attributes cannot state, written out: negative or symbolic padding, and with
    `narrow` also as much of it as a window is wide.
    """
    amounts, left = [], []
    for axis, window in zip(axes, given, strict=True):
        value = spread(builder, value, axis, window.base - 1, fill)
        low, high = window.low, window.high
        stated = min(low, high) >= 0 and not any(builder.sizes.is_symbolic(size) for size in (low, high))
        kept = stated and not (narrow and max(low, high) >= window.size)
        amounts.append((0, 0) if kept else (low, high))
        pads = (low, high) if kept else (0, 0)
        left.append(Window(window.size, window.stride, *pads, 1, window.dilation))
    return pad_axes(builder, value, axes, amounts, fill), left


def window_attributes(builder: Builder, given: Sequence[Window]) -> dict[str, Any]:
    """What Conv, MaxPool and AveragePool are told of windows without holes; what is 1 or 0 is left out.

    Raises:
        NotConvertible: where a number depends on a symbolic dimension.
    """
    numbers = [number for w in given for number in (w.size, w.stride, w.low, w.high, w.dilation)]
    if any(builder.sizes.is_symbolic(number) for number in numbers):
        raise NotConvertible("a window whose size, stride, dilation or padding depends on a symbolic dimension")
    strides, dilations = [w.stride for w in given], [w.dilation for w in given]
    pads = [w.low for w in given] + [w.high for w in given]
    return {
        "kernel_shape": [w.size for w in given],
        "strides": strides if any(s != 1 for s in strides) else None,
        "dilations": dilations if any(d != 1 for d in dilations) else None,
        "pads": pads if any(pads) else None,
    }


def patches(
    builder: Builder, value: oir.Value, axes: Sequence[int], given: Sequence[Window], fill: oir.Value
) -> tuple[oir.Value, list[int]]:
    """The elements of every window: in place of each of `axes`, which ascend, one of the windows and one of the places
    in a window. Also returns where the latter are. Padding and holes are `fill`.

    Raises:
        NotConvertible: along a symbolic dimension.
    """
    for axis, window in reversed(list(zip(axes, given, strict=True))):
        shape = builder.shape(value)
        if any(builder.sizes.is_symbolic(size) for size in (shape[axis], window.size, window.low, window.high)):
            raise NotConvertible("windows of this kind along a symbolic dimension")
        index = window.positions(shape[axis])
        if (index == shape[axis]).any():
            value = pad_axes(builder, value, [axis], [(0, 1)], fill)
        target = [*shape[:axis], *index.shape, *shape[axis + 1 :]]
        value = builder.op("Gather", value, builder.constant(index.astype(np.int64)), shape=target, axis=axis)
    return value, [axis + i + 1 for i, axis in enumerate(axes)]
