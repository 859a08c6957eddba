"""stablehlo.reduce_window: pools, sums and products of windows along any dimensions."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as oir
from jaxlib.mlir import ir

from zenith_mlir.ir.facts import int_list, shape
from zenith_mlir.onnx.arrange import in_order, stored_view
from zenith_mlir.onnx.builder import Builder
from zenith_mlir.onnx.convert import Lowering, NotConvertible, Walk
from zenith_mlir.onnx.lower.cumulative import LOG_ADD_EXP, cumulative
from zenith_mlir.onnx.lower.number import is_float
from zenith_mlir.onnx.lower.reduce import REDUCTIONS, is_neutral, neutral, reduce_axes, with_init
from zenith_mlir.onnx.lower.window import Window, padded, patches, window_attributes, windows
from zenith_mlir.onnx.view import View

__all__ = ["POOL", "average", "window_kind"]

_D = oir.DataType
_ADD = "stablehlo.add"
_MAX_FOLDED = 1 << 20


def _reduce_window(walk: Walk, op: ir.Operation) -> Sequence[View]:
    if len(op.operands) != 2:
        raise NotConvertible("a reduce_window of several operands")
    kind, view, given = window_kind(op), walk.view(op.operands[0]), _windows(op)
    known = _folded(walk, kind, view, given)
    result = known or cumulative(walk, kind, view, given) or _pool(walk, op, kind, view, given)
    return [with_init(walk, result, op.operands[1], kind)]


def window_kind(op: ir.Operation) -> str:
    """The operation that combines the elements of a window.

    Raises:
        NotConvertible: if it is not one operation that reductions have too, or a log-add-exp.
    """
    body: list[str] = [inner.operation.name for inner in op.regions[0].blocks[0].operations][:-1]
    if tuple(name.removeprefix("stablehlo.") for name in body) == LOG_ADD_EXP:
        return "logaddexp"
    if len(body) != 1 or body[0] not in REDUCTIONS:
        raise NotConvertible(
            "a reduce_window is converted where it adds, multiplies, takes the extreme or joins booleans"
        )
    return body[0]


def _windows(op: ir.Operation) -> list[Window]:
    return windows(op, int_list(op, "window_dimensions"), "base_dilations", "window_dilations")


def _folded(walk: Walk, kind: str, view: View, given: Sequence[Window]) -> View | None:
    """The result where the elements are known: how many elements windows have is counted so."""
    fold, builder = _FOLDS.get(kind), walk.builder
    moving = [d for d, window in enumerate(given) if not window.is_trivial]
    seen = [n for d in moving for n in (view.shape[d], given[d].size, given[d].low, given[d].high)]
    if fold is None or builder.array(view.value) is None or any(builder.sizes.is_symbolic(n) for n in seen):
        return None
    kept = sorted({*view.order, *moving})
    array = _elements(builder, view, kept)
    if view.dtype == _D.BOOL or array.size * math.prod(given[d].size for d in moving) > _MAX_FOLDED:
        return None
    dims = list(view.shape)
    for axis, d in enumerate(kept):
        if d in moving:
            array = _fold(fold, array, axis, given[d], neutral(kind, view.dtype))
            dims[d] = array.shape[axis]
    axes = tuple(kept.index(d) if d in kept else None for d in range(view.rank))
    return View(builder.constant(array, view.dtype), axes, tuple(dims))


def _fold(fold: np.ufunc, array: np.ndarray[Any, Any], axis: int, window: Window, fill: float) -> np.ndarray[Any, Any]:
    filled = np.full([*array.shape[:axis], 1, *array.shape[axis + 1 :]], fill, array.dtype)
    windowed = np.take(np.concatenate([array, filled], axis), window.positions(array.shape[axis]), axis)
    result: np.ndarray[Any, Any] = fold.reduce(windowed, axis=axis + 1, dtype=array.dtype)
    return result


def _elements(builder: Builder, view: View, dimensions: Sequence[int]) -> np.ndarray[Any, Any]:
    """Of a constant, along `dimensions`, which ascend and have all that is stored; floats as float64."""
    stored = builder.array(view.value)
    assert stored is not None
    array = stored.reshape([view.shape[d] for d in view.order]).transpose(np.argsort(view.order))
    array = np.expand_dims(array, [i for i, d in enumerate(dimensions) if d not in view.order])
    return np.broadcast_to(
        array.astype(np.float64) if is_float(view.dtype) else array, [view.shape[d] for d in dimensions]
    )


_FOLDS: dict[str, np.ufunc] = {
    "stablehlo.add": np.add,
    "stablehlo.multiply": np.multiply,
    "stablehlo.maximum": np.maximum,
    "stablehlo.minimum": np.minimum,
}


@dataclass(frozen=True)
class _Arranged:
    """Elements as pooling nodes have them: (batch, channels, up to three dimensions that may have windows)."""

    value: oir.Value
    windows: list[Window]
    lead: list[int]
    order: list[int]
    """The dimensions of the program that are stored."""
    dims: tuple[int, ...]
    """The shape of the result in the program."""

    @property
    def axes(self) -> range:
        return range(2, 2 + len(self.windows))

    @property
    def pooled(self) -> list[int]:
        """The shape of the result of a node."""
        return [*self.lead, *(self.dims[d] for d in self.order[len(self.order) - len(self.windows) :])]

    def seen(self, builder: Builder, value: oir.Value, dtype: oir.DataType) -> View:
        """A result in the dimensions of the program."""
        stored = builder.reshape(builder.cast(value, dtype), [self.dims[d] for d in self.order])
        axes = tuple(self.order.index(d) if d in self.order else None for d in range(len(self.dims)))
        return View(stored, axes, self.dims)


def _arranged(
    builder: Builder, view: View, given: Sequence[Window], dims: tuple[int, ...], dtype: oir.DataType
) -> _Arranged | None:
    """As it is stored if at most three dimensions follow the first with a window; None if more have windows."""
    moving = [d for d, window in enumerate(given) if not window.is_trivial]
    view = stored_view(builder, view, moving)
    order = [*(d for d in moving if d not in view.order), *view.order]
    first = min(order.index(d) for d in moving)
    if len(order) - min(first, 2) <= 3:
        first = min(first, 2)
    elif len(order) - first > 3:
        order = [*(d for d in order if d not in moving), *(d for d in order if d in moving)]
        first = len(order) - len(moving)
    if len(order) - first > 3:
        return None
    sizes = [view.shape[d] for d in order]
    lead = [math.prod(sizes[: first - 1]), sizes[first - 1]] if first > 1 else [*sizes[:first], 1, 1][:2]
    value = builder.reshape(builder.cast(in_order(builder, view, order), dtype), [*lead, *sizes[first:]])
    return _Arranged(value, [given[d] for d in order[first:]], lead, order, dims)


def _pool(walk: Walk, op: ir.Operation, kind: str, view: View, given: Sequence[Window]) -> View:
    builder = walk.builder
    if all(window.is_trivial for window in given):
        return view
    compute, dims = _COMPUTE.get(kind, {}).get(view.dtype), shape(op.results[0])
    arranged = _arranged(builder, view, given, dims, compute) if compute is not None else None
    if arranged is None:
        return _by_elements(builder, kind, view, given, dims)
    result = _window_sum(builder, arranged) if kind == _ADD else _extreme(builder, kind, arranged, view.dtype)
    return arranged.seen(builder, result, view.dtype)


# The type in which a node pools elements of a type. MaxPool reads others than these in a wider one; signs are turned
# for minima; Conv sums float32 alone.
_FLOATS = {_D.FLOAT: _D.FLOAT, _D.FLOAT16: _D.FLOAT, _D.BFLOAT16: _D.FLOAT}
_WIDE = {_D.DOUBLE: _D.DOUBLE, _D.INT32: _D.DOUBLE, _D.UINT32: _D.DOUBLE, _D.INT16: _D.FLOAT, _D.UINT16: _D.FLOAT}
_COMPUTE: Mapping[str, Mapping[oir.DataType, oir.DataType]] = {
    _ADD: _FLOATS,
    "stablehlo.maximum": {**_FLOATS, **_WIDE, _D.INT8: _D.INT8, _D.UINT8: _D.UINT8, _D.BOOL: _D.UINT8},
    "stablehlo.minimum": {**_FLOATS, **_WIDE, _D.INT8: _D.FLOAT, _D.UINT8: _D.FLOAT, _D.BOOL: _D.FLOAT},
    "stablehlo.or": {_D.BOOL: _D.UINT8},
    "stablehlo.and": {_D.BOOL: _D.FLOAT},
}


def _extreme(builder: Builder, kind: str, arranged: _Arranged, given: oir.DataType) -> oir.Value:
    least = kind in ("stablehlo.minimum", "stablehlo.and")
    value = arranged.value
    if least:
        value = builder.op("Neg", value, shape=builder.shape(value))
    start = neutral(kind, given)
    fill = builder.scalar(-start if least else start, _dtype(value))
    whole, left = padded(builder, value, arranged.axes, arranged.windows, fill, narrow=True)
    attributes, dims = window_attributes(builder, left), arranged.pooled
    found = builder.op("MaxPool", whole, shape=dims, **attributes)
    if is_float(given):
        # Padding that is written out is infinite.
        found = (_exact if whole is not value else _unless_finite)(builder, whole, found, attributes)
    return builder.op("Neg", found, shape=dims) if least else found


def _unless_finite(builder: Builder, value: oir.Value, found: oir.Value, attributes: dict[str, Any]) -> oir.Value:
    """Only if there is a NaN or an infinity anywhere, which the sum of all squares says, what they do to windows."""
    squares = builder.op("ReduceSumSquare", _representative(builder, value), shape=(), keepdims=0)
    infinity = builder.scalar(math.inf, _dtype(value))
    finite = builder.op("Less", squares, infinity, shape=(), dtype=_D.BOOL)
    with builder.subgraph("finite", []) as same:
        builder.set_outputs(same, [found])
    with builder.subgraph("other", []) as other:
        builder.set_outputs(other, [_exact(builder, value, found, attributes)])
    result = (_dtype(found), builder.shape(found))
    return builder.nodes("If", [finite], [result], then_branch=same, else_branch=other)[0]


def _representative(builder: Builder, value: oir.Value) -> oir.Value:
    """Something smaller that is finite only if all of `value` is. Behind a convolution onnxruntime keeps channels in
    blocks, in which it can average but not square.
    """
    node, stored = value.producer(), builder.shape(value)
    if node is None or node.op_type not in ("Conv", "Relu", "Clip") or value.dtype != _D.FLOAT or len(stored) != 4:
        return value
    return builder.op("GlobalAveragePool", value, shape=[*stored[:2], 1, 1])


def _exact(builder: Builder, value: oir.Value, found: oir.Value, attributes: dict[str, Any]) -> oir.Value:
    """NaN where a window has one and -inf where it has nothing else: MaxPool passes over NaN and may begin with the
    least finite number.
    """
    dims, stored = builder.shape(found), builder.shape(value)

    def some(flags: oir.Value) -> oir.Value:
        pooled = builder.op("MaxPool", builder.cast(flags, _D.UINT8), shape=dims, **attributes)
        return builder.cast(pooled, _D.BOOL)

    low, nan = (builder.scalar(number, _dtype(value)) for number in (-math.inf, math.nan))
    more = some(builder.op("Greater", value, low, shape=stored, dtype=_D.BOOL))
    unordered = some(builder.op("IsNaN", value, shape=stored, dtype=_D.BOOL))
    numbers = builder.op("Where", more, found, low, shape=dims, data=1)
    return builder.op("Where", unordered, nan, numbers, shape=dims, data=1)


def _dtype(value: oir.Value) -> oir.DataType:
    assert value.dtype is not None
    return value.dtype


def _window_sum(builder: Builder, arranged: _Arranged) -> oir.Value:
    """Every channel by a kernel of ones: exact where the elements are whole numbers, which a mean times a number is
    not.
    """
    zero = builder.scalar(0, _D.FLOAT)
    value, left = padded(builder, arranged.value, arranged.axes, arranged.windows, zero, narrow=False)
    channels = builder.shape(value)[1]
    if builder.sizes.is_symbolic(channels):
        raise NotConvertible("a sum of windows of which a symbolic dimension is the channels")
    kernel = builder.constant(np.ones([channels, 1, *(window.size for window in left)], np.float32))
    attributes = window_attributes(builder, left)
    group = channels if channels > 1 else None
    return builder.op("Conv", value, kernel, shape=arranged.pooled, group=group, **attributes)


def _by_elements(builder: Builder, kind: str, view: View, given: Sequence[Window], dims: tuple[int, ...]) -> View:
    """All elements of every window beside each other, and a reduction of them."""
    if kind == "logaddexp":
        raise NotConvertible("a log-add-exp of windows is converted where it is cumulative")
    moving = [d for d, window in enumerate(given) if not window.is_trivial]
    view = stored_view(builder, view, moving)
    order = sorted({*view.order, *moving}, key=lambda d: (view.axes[d] is None, view.axes[d] or 0))
    value = in_order(builder, view, order)
    fill = builder.scalar(neutral(kind, view.dtype), view.dtype)
    axes = [axis for axis, d in enumerate(order) if d in moving]
    value, places = patches(builder, value, axes, [given[order[axis]] for axis in axes], fill)
    reduced = reduce_axes(builder, kind, View.of(value, builder.shape(value)), places)
    kept = tuple(reduced.axes[order.index(d)] if d in order else None for d in range(view.rank))
    return View(reduced.value, kept, dims)


def average(walk: Walk, op: ir.Operation, counts: np.ndarray[Any, Any], dtype: oir.DataType) -> View | None:
    """The sum of windows `op` divided by `counts`, where AveragePool means that: all elements of a window counted, or
    those that are not padding. `counts` has the rank of the result and broadcasts to it, which has `dtype`.
    """
    builder, view, given = walk.builder, walk.view(op.operands[0]), _windows(op)
    moving = [d for d, window in enumerate(given) if not window.is_trivial]
    plain = all(w.base == 1 and (w.dilation == 1 or builder.opset >= 19) for w in given)
    seen = [n for d in moving for n in (view.shape[d], given[d].low, given[d].high)]
    if view.dtype not in _FLOATS or not moving or not plain or not is_neutral(walk, op.operands[1], _ADD, view.dtype):
        return None
    if (counts == math.prod(window.size for window in given)).all():
        padding_counts = 1
    elif not any(builder.sizes.is_symbolic(n) for n in seen) and _equal(counts, _inside(view, given)):
        padding_counts = 0
    else:
        return None
    arranged = _arranged(builder, view, given, shape(op.results[0]), _D.FLOAT)
    if arranged is None:
        return None
    zero = builder.scalar(0, _D.FLOAT)
    value, left = padded(builder, arranged.value, arranged.axes, arranged.windows, zero, narrow=True)
    if left != arranged.windows and not padding_counts:
        return None
    pads = any(window.low or window.high for window in left)
    result = builder.op(
        "AveragePool",
        value,
        shape=arranged.pooled,
        **window_attributes(builder, left),
        count_include_pad=1 if padding_counts and pads else None,
    )
    return arranged.seen(builder, result, dtype)


def _equal(counts: np.ndarray[Any, Any], others: np.ndarray[Any, Any]) -> bool:
    left, right = np.broadcast_arrays(counts.astype(np.float64), others)
    return np.array_equal(left, right)


def _inside(view: View, given: Sequence[Window]) -> np.ndarray[Any, Any]:
    """How many elements of each window are not padding; dimensions without windows have the size 1."""
    counts = np.ones([1] * view.rank, np.float32)
    for d, window in enumerate(given):
        if not window.is_trivial:
            inside = (window.positions(view.shape[d]) < view.shape[d]).sum(1)
            counts = counts * inside.reshape([-1 if axis == d else 1 for axis in range(view.rank)])
    return counts


POOL: dict[str, Lowering] = {"stablehlo.reduce_window": _reduce_window}
