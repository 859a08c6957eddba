"""Moving elements: most of it is another look at the same value."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx_ir as oir
from jaxlib.mlir import ir

from zenith_mlir.ir.elements import elements, splat_element
from zenith_mlir.ir.facts import int_list, shape, splat
from zenith_mlir.onnx.arrange import aligned, common_order, dense
from zenith_mlir.onnx.builder import Builder
from zenith_mlir.onnx.convert import Lowering, Walk, onnx_type
from zenith_mlir.onnx.view import View

__all__ = ["SHAPE", "concatenate", "pad_axes", "slice_axes", "spread"]


def _constant(walk: Walk, op: ir.Operation) -> Sequence[View]:
    result = op.results[0]
    dims, dtype = shape(result), onnx_type(result)
    array = elements(op) if splat(result) is None else splat_element(op)
    if array.size == 1:
        return [View(walk.builder.constant(array.reshape(()), dtype), (None,) * len(dims), dims)]
    return [View.of(walk.builder.constant(array, dtype), dims)]


def _iota(walk: Walk, op: ir.Operation) -> Sequence[View]:
    """One line of numbers; the other dimensions repeat it."""
    dims, dtype = shape(op.results[0]), onnx_type(op.results[0])
    d = ir.IntegerAttr(op.attributes["iota_dimension"]).value
    axes = tuple(0 if i == d else None for i in range(len(dims)))
    return [View(number_line(walk.builder, dims[d], dtype), axes, dims)]


def number_line(builder: Builder, size: int, dtype: oir.DataType) -> oir.Value:
    """0, 1, ..., size - 1."""
    if not builder.sizes.is_symbolic(size):
        return builder.constant(np.arange(size).astype(dtype.numpy()))
    start, step = builder.scalar(0, oir.DataType.INT64), builder.scalar(1, oir.DataType.INT64)
    stop = builder.reshape(builder.dims([size]), ())
    return builder.cast(builder.op("Range", start, stop, step, shape=[size]), dtype)


def _broadcast_in_dim(walk: Walk, op: ir.Operation) -> Sequence[View]:
    view = walk.view(op.operands[0])
    return [view.broadcast(shape(op.results[0]), int_list(op, "broadcast_dimensions"))]


def _reshape(walk: Walk, op: ir.Operation) -> Sequence[View]:
    view, dims = walk.view(op.operands[0]), shape(op.results[0])
    if not view.order:
        return [View(walk.builder.reshape(view.value, ()), (None,) * len(dims), dims)]
    found = view.reshaped(dims)
    return [found or View.of(walk.builder.reshape(dense(walk.builder, view), dims), dims)]


def _transpose(walk: Walk, op: ir.Operation) -> Sequence[View]:
    return [walk.view(op.operands[0]).transposed(int_list(op, "permutation"))]


def _same(walk: Walk, op: ir.Operation) -> Sequence[View]:
    return [walk.view(value) for value in op.operands]


def _slice(walk: Walk, op: ir.Operation) -> Sequence[View]:
    starts, limits, strides = (int_list(op, name) for name in ("start_indices", "limit_indices", "strides"))
    return [slice_axes(walk.builder, walk.view(op.operands[0]), starts, limits, strides)]


def slice_axes(
    builder: Builder, view: View, starts: Sequence[int], limits: Sequence[int], strides: Sequence[int]
) -> View:
    """Every strides[i]-th element of dimension i from starts[i] and below limits[i]."""
    dims = tuple(-(-(limit - start) // step) for start, limit, step in zip(starts, limits, strides, strict=True))
    cut = [d for d in range(view.rank) if view.axes[d] is not None and dims[d] != view.shape[d]]
    if not cut:
        return View(view.value, view.axes, dims)
    stored = list(builder.shape(view.value))
    for d in cut:
        stored[view.axes[d] or 0] = dims[d]
    bounds = [builder.dims([each[d] for d in cut]) for each in (starts, limits)]
    operands = [*bounds, builder.ints([view.axes[d] or 0 for d in cut]), builder.ints([strides[d] for d in cut])]
    return View(builder.op("Slice", view.value, *operands, shape=stored), view.axes, dims)


def _reverse(walk: Walk, op: ir.Operation) -> Sequence[View]:
    builder, view = walk.builder, walk.view(op.operands[0])
    axes = [axis for d in int_list(op, "dimensions") if (axis := view.axes[d]) is not None]
    return [view.with_value(builder.reverse(view.value, axes))]


def _concatenate(walk: Walk, op: ir.Operation) -> Sequence[View]:
    views = [walk.view(value) for value in op.operands]
    return [concatenate(walk.builder, views, ir.IntegerAttr(op.attributes["dimension"]).value)]


def concatenate(builder: Builder, views: Sequence[View], dimension: int) -> View:
    """Along `dimension`; in the order in which the largest is stored. What all of them repeat stays repeated."""
    # Another size along the dimension does not matter to the order.
    order = common_order([View(view.value, view.axes, views[0].shape) for view in views])
    if dimension not in order:
        order.append(dimension)
    parts = [
        builder.expand(_full_rank(builder, view, order), [view.shape[d] for d in order])
        for view in views
        if view.shape[dimension]
    ] or [dense(builder, views[0])]
    total = sum(view.shape[dimension] for view in views)
    dims = tuple(total if d == dimension else size for d, size in enumerate(views[0].shape))
    result = (
        parts[0]
        if len(parts) == 1
        else builder.op("Concat", *parts, shape=[dims[d] for d in order], axis=order.index(dimension))
    )
    axes = tuple(order.index(d) if d in order else None for d in range(len(dims)))
    return View(result, axes, dims)


def _full_rank(builder: Builder, view: View, order: Sequence[int]) -> oir.Value:
    value = aligned(builder, view, order)
    return builder.reshape(value, [1 if view.axes[d] is None else view.shape[d] for d in order])


def _pad(walk: Walk, op: ir.Operation) -> Sequence[View]:
    builder, view = walk.builder, walk.view(op.operands[0])
    low, high, interior = (int_list(op, n) for n in ("edge_padding_low", "edge_padding_high", "interior_padding"))
    fill = builder.reshape(walk.view(op.operands[1]).value, ())
    changed = [d for d in range(view.rank) if low[d] or high[d] or (interior[d] and view.shape[d] > 1)]
    if any(view.axes[d] is None for d in changed):
        view = View.of(dense(builder, view), view.shape)
    value = view.value
    for d in changed:
        value = spread(builder, value, view.axes[d] or 0, interior[d], fill)
    value = pad_axes(builder, value, [view.axes[d] or 0 for d in changed], [(low[d], high[d]) for d in changed], fill)
    return [View(value, view.axes, shape(op.results[0]))]


def pad_axes(
    builder: Builder, value: oir.Value, axes: Sequence[int], amounts: Sequence[tuple[int, int]], fill: oir.Value
) -> oir.Value:
    """`fill` before and behind some axes; negative amounts take elements away."""
    kept = [(axis, amount) for axis, amount in zip(axes, amounts, strict=True) if any(amount)]
    if not kept:
        return value
    stored = list(builder.shape(value))
    padding = [[0] * len(stored), [0] * len(stored)]
    for axis, (before, behind) in kept:
        padding[0][axis], padding[1][axis] = before, behind
        stored[axis] += before + behind
    return builder.op("Pad", value, builder.dims([*padding[0], *padding[1]]), fill, shape=stored, mode="constant")


def spread(builder: Builder, value: oir.Value, axis: int, interior: int, fill: oir.Value) -> oir.Value:
    """`interior` times `fill` between any two elements of an axis: behind each of them, then the last are cut off."""
    stored = list(builder.shape(value))
    size = stored[axis]
    if not interior or size < 2:
        return value
    split = builder.reshape(value, [*stored[: axis + 1], 1, *stored[axis + 1 :]])
    wide = pad_axes(builder, split, [axis + 1], [(0, interior)], fill)
    joined = builder.reshape(wide, [*stored[:axis], size * (1 + interior), *stored[axis + 1 :]])
    return pad_axes(builder, joined, [axis], [(0, -interior)], fill)


_S = "stablehlo."
SHAPE: dict[str, Lowering] = {
    _S + "constant": _constant,
    _S + "iota": _iota,
    _S + "broadcast_in_dim": _broadcast_in_dim,
    _S + "reshape": _reshape,
    _S + "transpose": _transpose,
    _S + "slice": _slice,
    _S + "reverse": _reverse,
    _S + "concatenate": _concatenate,
    _S + "pad": _pad,
    _S + "optimization_barrier": _same,
    _S + "copy": _same,
}
