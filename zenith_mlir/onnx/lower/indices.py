"""Where slices start: the columns of start indices, brought within the bounds as XLA does.

XLA clamps every start so that the slice lies inside; onnxruntime ends a run with an error instead, but counts negative
indices from the end. So `select(i < 0, i + n, i)` and XLA's clamping are together one Clip of i to [-n, n - 1], and no
node at all where i is known to lie there.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import onnx_ir as oir
from jaxlib.mlir import ir

from zenith_mlir.ir.facts import defined_by, defining_op, element_type, int_list, shape
from zenith_mlir.ir.signature import numpy_dtype
from zenith_mlir.match.constants import evaluate
from zenith_mlir.onnx.arrange import elementwise
from zenith_mlir.onnx.builder import Builder
from zenith_mlir.onnx.convert import Walk
from zenith_mlir.onnx.lower.ranges import integer_range, uniform, unwrapped
from zenith_mlir.onnx.lower.shape import slice_axes
from zenith_mlir.onnx.sizes import Sizes
from zenith_mlir.onnx.view import View

__all__ = ["Column", "Start", "clip", "column", "column_of", "known_integers", "last_start", "scalar_column", "start"]

_D = oir.DataType
_INDEX_TYPES = {_D.INT8: _D.INT32, _D.UINT8: _D.INT32, _D.INT16: _D.INT32, _D.UINT16: _D.INT32, _D.UINT32: _D.INT64}

_Look = Callable[[View], View]


@dataclass(frozen=True)
class Column:
    """The start indices along one dimension: `look` at the elements of `value`, clamped to `limits` if given."""

    value: ir.Value
    look: _Look
    limits: tuple[int, int] | None = None


@dataclass(frozen=True)
class Start:
    """`bounded` starts that onnxruntime takes, made of the `given` ones; the same view where these are inside."""

    given: View
    bounded: View

    def inside(self, walk: Walk) -> View | None:
        """Which of the given starts are within the bounds; None for all of them."""
        if self.given is self.bounded:
            return None
        return elementwise(walk.builder, "Equal", self.given, self.bounded, dtype=_D.BOOL)


def scalar_column(value: ir.Value) -> Column:
    return _stripped(Column(value, lambda view: view))


def column(walk: Walk, indices: ir.Value, vector_dimension: int, k: int) -> Column:
    """Number k along `vector_dimension` of `indices`, which may be one past their last dimension."""
    if vector_dimension == len(shape(indices)):
        return _stripped(Column(indices, lambda view: view))
    clamp = defined_by(indices, "stablehlo.clamp")
    if clamp is not None:
        limits = [known_integers(walk.builder.sizes, bound) for bound in (clamp.operands[0], clamp.operands[2])]
        rank = len(shape(indices))
        lines = [column_of(limit, rank, vector_dimension, k) for limit in limits if limit is not None]
        if len(lines) == 2:
            low, high = lines
            if (low == low.flat[0]).all() and (high == high.flat[0]).all():
                inner = column(walk, clamp.operands[1], vector_dimension, k)
                if inner.limits is None:
                    return replace(inner, limits=(int(low.flat[0]), int(high.flat[0])))
    joined = defined_by(indices, "stablehlo.concatenate")
    if joined is not None and ir.IntegerAttr(joined.attributes["dimension"]).value == vector_dimension:
        for part in joined.operands:
            size = shape(part)[vector_dimension]
            if k < size:
                return column(walk, part, vector_dimension, k)
            k -= size
    return _stripped(Column(indices, lambda view: _at(walk, view, vector_dimension, k)))


def column_of(known: np.ndarray, rank: int, dimension: int, k: int) -> np.ndarray:
    """Number k along `dimension` of elements of an array of this rank; scalars and lines of size 1 stand for all."""
    return known if known.ndim < rank or known.shape[dimension] == 1 else known.take([k], dimension)


def _at(walk: Walk, view: View, dimension: int, k: int) -> View:
    """Without `dimension`, of which element k is taken."""
    starts, limits = [0] * view.rank, list(view.shape)
    starts[dimension], limits[dimension] = k, k + 1
    cut = slice_axes(walk.builder, view, starts, limits, [1] * view.rank)
    kept = [d for d in range(view.rank) if d != dimension]
    return View(cut.value, tuple(cut.axes[d] for d in kept), tuple(cut.shape[d] for d in kept))


def _stripped(col: Column) -> Column:
    """Seen from before it was broadcast and reshaped."""
    op = defining_op(col.value)
    replay = None if op is None else _REPLAYS.get(op.name)
    if op is None or replay is None or not _is_look(op):
        return col
    return _stripped(Column(op.operands[0], lambda view: col.look(replay(op, view)), col.limits))


def _is_look(op: ir.Operation) -> bool:
    """Whether a view of the operand is a view of the result."""
    if op.name != "stablehlo.reshape":
        return True
    before, after = shape(op.operands[0]), shape(op.results[0])
    return [size for size in before if size != 1] == [size for size in after if size != 1]


def _reshaped(op: ir.Operation, view: View) -> View:
    found = view.reshaped(shape(op.results[0]))
    assert found is not None
    return found


_REPLAYS: dict[str, Callable[[ir.Operation, View], View]] = {
    "stablehlo.broadcast_in_dim": lambda op, view: view.broadcast(
        shape(op.results[0]), int_list(op, "broadcast_dimensions")
    ),
    "stablehlo.reshape": _reshaped,
    "stablehlo.transpose": lambda op, view: view.transposed(int_list(op, "permutation")),
}


def start(walk: Walk, col: Column, size: int, window: int, from_end: bool = True) -> Start:
    """Starts of slices of `window` elements along a dimension of `size`; negative ones may count from its end if
    `from_end`.
    """
    builder = walk.builder
    symbolic = builder.sizes.is_symbolic(size) or builder.sizes.is_symbolic(window)
    known = _known_view(walk, col.value)
    if known is not None and not symbolic:
        return _known_start(builder, col, known, size - window)
    value, least, most = col.value, *integer_range(col.value, builder.sizes)
    low, high = 0, size - window
    within = col.limits is not None and not symbolic and low <= col.limits[0] and col.limits[1] <= high
    if within and col.limits is not None:
        low, high = col.limits
    index = unwrapped(value, size) if not symbolic and (low, high) == (0, size - 1) else None
    if index is not None and (within or (from_end and col.limits is None)):
        # The last element is as well counted from the end.
        value, (least, most) = index, integer_range(index, builder.sizes)
        low = -size if least < 0 else 0
    given = col.look(_typed(builder, walk.view(value)))
    if col.limits is not None and not within:
        given = clip(builder, given, *(builder.scalar(limit, given.dtype) for limit in col.limits))
        least, most = col.limits
    if not symbolic and low <= least and most <= high:
        return Start(given, given)
    last = last_start(builder, size, window, given.dtype) if symbolic else builder.scalar(high, given.dtype)
    bounded = clip(builder, given, builder.scalar(low, given.dtype), last)
    return Start(bounded if within else given, bounded)


def last_start(builder: Builder, size: int, window: int, dtype: oir.DataType) -> oir.Value:
    """The last element at which a slice may start."""
    if not (builder.sizes.is_symbolic(size) or builder.sizes.is_symbolic(window)):
        return builder.scalar(size - window, dtype)
    ends = [builder.reshape(builder.dims([each]), ()) for each in (size, window)]
    return builder.cast(builder.op("Sub", *ends, shape=()), dtype)


def _known_start(builder: Builder, col: Column, known: View, last: int) -> Start:
    array = builder.array(known.value)
    assert array is not None
    array = array.astype(np.int64)
    if col.limits is not None:
        array = np.clip(array, *col.limits)
    bounded = np.clip(array, 0, last)
    given = col.look(known.with_value(builder.constant(array)))
    if (bounded == array).all():
        return Start(given, given)
    return Start(given, col.look(known.with_value(builder.constant(bounded))))


def _known_view(walk: Walk, value: ir.Value) -> View | None:
    """The elements of `value` where they are known, those that repeat once."""
    array = known_integers(walk.builder.sizes, value)
    if array is None:
        view = walk.view(value)
        return None if walk.builder.array(view.value) is None else view
    dims = shape(value)
    kept = [d for d in range(array.ndim) if array.shape[d] > 1 and (array != array.take([0], d)).any()]
    line = array if not array.size else array[tuple(slice(None) if d in kept else 0 for d in range(array.ndim))]
    axes = tuple(kept.index(d) if d in kept else None for d in range(array.ndim)) if array.size else range(array.ndim)
    return View(walk.builder.constant(line), tuple(axes), dims)


def _typed(builder: Builder, view: View) -> View:
    """In a type that onnxruntime takes for an index, with room for both ends."""
    if view.dtype == _D.UINT64:
        largest = builder.scalar(np.iinfo(np.int64).max, _D.UINT64)
        view = view.with_value(builder.op("Min", view.value, largest, shape=builder.shape(view.value)))
        return view.with_value(builder.cast(view.value, _D.INT64))
    return view.with_value(builder.cast(view.value, _INDEX_TYPES.get(view.dtype, view.dtype)))


def clip(builder: Builder, view: View, low: oir.Value, high: oir.Value) -> View:
    return view.with_value(builder.op("Clip", view.value, low, high, shape=builder.shape(view.value)))


def known_integers(sizes: Sizes, value: ir.Value) -> np.ndarray | None:
    """The elements of `value` if constants alone lead to it, none of which is as long as a symbolic size unless all of
    its elements are the same. Of these there is one: every size is 1.
    """
    number = uniform(value)
    if number is not None:
        return np.full((1,) * len(shape(value)), number, numpy_dtype(element_type(value)))
    return None if _is_open(sizes, value, set()) else evaluate(value)


def _is_open(sizes: Sizes, value: ir.Value, seen: set[ir.Value]) -> bool:
    """Whether an argument or a symbolic size leads to `value`."""
    if value in seen:
        return False
    seen.add(value)
    op = defining_op(value)
    if op is None or len(seen) > 100 or any(sizes.is_symbolic(size) for size in shape(value)):
        return True
    return any(_is_open(sizes, operand, seen) for operand in op.operands)
