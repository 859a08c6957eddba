"""stablehlo.dynamic_update_slice: one slice written into an array.

Of what onnxruntime's CPU offers, ScatterND costs one copy of the array; Concat of slices and Where cost more.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx_ir as oir
from jaxlib.mlir import ir

from zenith_mlir.onnx.arrange import dense, in_order, stored_view
from zenith_mlir.onnx.builder import Builder
from zenith_mlir.onnx.convert import Lowering, Walk
from zenith_mlir.onnx.lower.indices import scalar_column, start
from zenith_mlir.onnx.lower.shape import concatenate, number_line, pad_axes, slice_axes
from zenith_mlir.onnx.view import View

__all__ = ["UPDATE", "write_slice"]

_D = oir.DataType
# The indices of a write at a known place are part of the file.
_MAX_CONSTANT = 1 << 12


def _dynamic_update_slice(walk: Walk, op: ir.Operation) -> Sequence[View]:
    builder = walk.builder
    view, update = walk.view(op.operands[0]), walk.view(op.operands[1])
    starts = {
        d: start(walk, scalar_column(value), view.shape[d], update.shape[d]).bounded
        for d, value in enumerate(list(op.operands)[2:])
        if update.shape[d] != view.shape[d]
    }
    return [write_slice(builder, view, update, starts)]


def write_slice(builder: Builder, view: View, update: View, starts: Mapping[int, View]) -> View:
    """`view` with `update` from `starts` on, which are within the bounds and have no dimensions but of size 1. A
    dimension without a start is written from 0 on.
    """
    if not math.prod(update.shape):
        return view
    # A dimension of which all is written has no start but 0.
    zero = View(builder.scalar(0, _D.INT64), (), ())
    starts = {d: starts.get(d, zero) for d in range(view.rank) if update.shape[d] != view.shape[d]}
    if not starts:
        return update
    known = {d: builder.array(index.value) for d, index in starts.items()}
    firsts = {d: int(array.reshape(())) for d, array in known.items() if array is not None}
    if len(firsts) == len(starts):
        return _write_at(builder, view, update, firsts)
    scalars = {d: builder.reshape(index.value, ()) for d, index in starts.items()}
    return _scattered(builder, view, update, scalars)


def _write_at(builder: Builder, view: View, update: View, starts: Mapping[int, int]) -> View:
    """At a known place: padding where there is only one number around; joining if the indices were many."""
    if not view.order:
        return _padded(builder, view, update, starts)
    if _has_few_indices(builder, view, update, starts):
        return _scattered(builder, view, update, {d: builder.scalar(first, _D.INT64) for d, first in starts.items()})
    (d, first), *others = starts.items()
    limit = first + update.shape[d]
    inner = _write_at(builder, _cut(builder, view, d, first, limit), update, dict(others)) if others else update
    parts = [_cut(builder, view, d, 0, first), inner, _cut(builder, view, d, limit, view.shape[d])]
    return concatenate(builder, [part for part in parts if part.shape[d]], d)


def _has_few_indices(builder: Builder, view: View, update: View, starts: Mapping[int, Any]) -> bool:
    """Whether the places to which ScatterND writes can be listed in the file."""
    order = _order(view)
    sizes = [update.shape[d] for d in order[: 1 + max(order.index(d) for d in starts)]]
    return math.prod(sizes) <= _MAX_CONSTANT and not any(builder.sizes.is_symbolic(size) for size in sizes)


def _order(view: View) -> list[int]:
    """All dimensions, as they are stored, those that repeat at the end."""
    return [*view.order, *(d for d in range(view.rank) if view.axes[d] is None)]


def _cut(builder: Builder, view: View, d: int, first: int, limit: int) -> View:
    starts, limits = [0] * view.rank, list(view.shape)
    starts[d], limits[d] = first, limit
    return slice_axes(builder, view, starts, limits, [1] * view.rank)


def _padded(builder: Builder, view: View, update: View, starts: Mapping[int, int]) -> View:
    update = stored_view(builder, update, list(starts))
    if any(update.axes[d] is None for d in starts):
        update = View.of(dense(builder, update), update.shape)
    amounts = [(first, view.shape[d] - first - update.shape[d]) for d, first in starts.items()]
    axes = [update.axes[d] or 0 for d in starts]
    fill = builder.reshape(view.value, ())
    value = pad_axes(builder, update.value, axes, amounts, fill)
    return View(value, update.axes, view.shape)


def _scattered(builder: Builder, view: View, update: View, starts: Mapping[int, oir.Value]) -> View:
    """`update` from these scalars on, in the order in which the array is stored."""
    view = stored_view(builder, view, range(view.rank))
    order = _order(view)
    dims, sizes = [view.shape[d] for d in order], [update.shape[d] for d in order]
    array, values = in_order(builder, view, order), builder.expand(in_order(builder, update, order), sizes)
    firsts = {order.index(d): first for d, first in starts.items()}
    if _has_few_indices(builder, view, update, starts):
        indices = _listed(builder, sizes[: max(firsts) + 1], firsts)
        result = builder.op("ScatterND", array, indices, values, shape=dims)
    elif len(firsts) > 1:
        indices = _joined(builder, sizes[: max(firsts) + 1], firsts)
        result = builder.op("ScatterND", array, indices, values, shape=dims)
    else:
        ((axis, first),) = firsts.items()
        write = _along if sizes[axis] == 1 else _between
        result = write(builder, array, values, axis, builder.cast(first, _D.INT64))
    return View(result, tuple(order.index(d) for d in range(view.rank)), view.shape)


def _listed(builder: Builder, sizes: Sequence[int], firsts: Mapping[int, oir.Value]) -> oir.Value:
    """[i, j, ..., :] = (i, j, ...) + firsts, in int64: a constant to which the starts are added."""
    grid = np.stack(np.meshgrid(*map(np.arange, sizes), indexing="ij"), -1).astype(np.int64)
    unknown = {}
    for axis, first in firsts.items():
        known = builder.array(first)
        if known is None:
            unknown[axis] = builder.cast(first, _D.INT64)
        else:
            grid[..., axis] += int(known.reshape(()))
    indices = builder.constant(grid)
    # One position along an axis: the start itself, all of whose column is still 0.
    for axis, first in sorted(unknown.items(), key=lambda item: sizes[item[0]] != 1):
        column = np.arange(len(sizes)) == axis
        if sizes[axis] == 1:
            indices = builder.op("Where", builder.constant(column), first, indices, shape=grid.shape, data=2)
        else:
            moved = builder.op("Mul", builder.constant(column.astype(np.int64)), first, shape=[len(sizes)])
            indices = builder.op("Add", indices, moved, shape=grid.shape)
    return indices


def _joined(builder: Builder, sizes: Sequence[int], firsts: Mapping[int, oir.Value]) -> oir.Value:
    """The same, computed."""
    columns = []
    for axis, size in enumerate(sizes):
        line = number_line(builder, size, _D.INT64)
        if axis in firsts:
            line = builder.op("Add", line, builder.cast(firsts[axis], _D.INT64), shape=[size])
        line = builder.reshape(line, [size if i == axis else 1 for i in range(len(sizes) + 1)])
        columns.append(builder.expand(line, [*sizes, 1]))
    return builder.op("Concat", *columns, shape=[*sizes, len(sizes)], axis=len(sizes))


def _along(builder: Builder, array: oir.Value, values: oir.Value, axis: int, first: oir.Value) -> oir.Value:
    """ScatterElements, which needs no indices along other axes, whatever their sizes."""
    indices = builder.expand(first, builder.shape(values))
    return builder.op("ScatterElements", array, indices, values, shape=builder.shape(array), axis=axis)


def _between(builder: Builder, array: oir.Value, values: oir.Value, axis: int, first: oir.Value) -> oir.Value:
    """What is before the slice and what is behind it, joined to it: twice the copying, but no indices."""
    dims = builder.shape(array)
    first = builder.reshape(first, [1])
    limit = builder.op("Add", first, builder.dims([builder.shape(values)[axis]]), shape=[1])
    size = builder.dims([dims[axis]])
    # The sizes of both parts depend on the start: 0 elements to all of them.
    before = _part(builder, array, builder.ints([0]), first, axis)
    behind = _part(builder, array, limit, size, axis)
    return builder.op("Concat", before, values, behind, shape=dims, axis=axis)


def _part(builder: Builder, array: oir.Value, first: oir.Value, limit: oir.Value, axis: int) -> oir.Value:
    """A Slice of a size that only a run knows."""
    value = builder.op("Slice", array, first, limit, builder.ints([axis]), shape=builder.shape(array))
    assert value.shape is not None
    value.shape = oir.Shape([None if i == axis else size for i, size in enumerate(value.shape)])
    return value


UPDATE: dict[str, Lowering] = {"stablehlo.dynamic_update_slice": _dynamic_update_slice}
