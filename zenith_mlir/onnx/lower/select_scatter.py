"""stablehlo.select_and_scatter, the derivative of a pool by extremes: of each window one element gets the gradient."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import numpy as np
import onnx_ir as oir
from jaxlib.mlir import ir

from zenith_mlir.canonical.splats import comparison_direction
from zenith_mlir.ir.facts import int_list
from zenith_mlir.onnx.arrange import dense, in_order, stored_view
from zenith_mlir.onnx.builder import Builder
from zenith_mlir.onnx.convert import Lowering, NotConvertible, Walk
from zenith_mlir.onnx.lower.reduce import with_init
from zenith_mlir.onnx.lower.shape import pad_axes, slice_axes
from zenith_mlir.onnx.lower.window import Window, windows
from zenith_mlir.onnx.view import View

__all__ = ["SELECT_SCATTER"]

_D = oir.DataType
_MOST_PLACES = 256
_KEEPS = {"GE": "GreaterOrEqual", "GT": "Greater", "LE": "LessOrEqual", "LT": "Less"}


def _select_and_scatter(walk: Walk, op: ir.Operation) -> Sequence[View]:
    """The rows are what has no windows, the columns the elements of what has."""
    builder, (x, source) = walk.builder, (walk.view(value) for value in list(op.operands)[:2])
    keeps, given = _keeps(op), windows(op, int_list(op, "window_dimensions"), "", "")
    moving = [d for d, window in enumerate(given) if not window.is_trivial]
    order = [*(d for d in range(x.rank) if d not in moving), *moving]
    sizes, outs = ([view.shape[d] for d in moving] for view in (x, source))
    numbers = [n for d in moving for n in (x.shape[d], source.shape[d], given[d].size, given[d].low, given[d].high)]
    if any(builder.sizes.is_symbolic(n) for n in numbers):
        raise NotConvertible("the gradient of windows along a symbolic dimension")
    if math.prod(given[d].size for d in moving) > _MOST_PLACES:
        raise NotConvertible(f"the gradient of windows of more than {_MOST_PLACES} elements")
    rows = math.prod(x.shape[d] for d in order[: x.rank - len(moving)])
    chosen = _chosen(builder, keeps, _rows(builder, x, order, [rows, *sizes]), [given[d] for d in moving], outs)
    number = _D.FLOAT if source.dtype in (_D.FLOAT16, _D.BFLOAT16) else source.dtype
    updates = builder.cast(_rows(builder, source, order, [rows, math.prod(outs)]), number)
    empty = builder.expand(builder.scalar(0, number), [rows, math.prod(sizes)])
    indices = builder.reshape(chosen, [rows, math.prod(outs)])
    total = builder.op(
        "ScatterElements", empty, indices, updates, shape=[rows, math.prod(sizes)], axis=1, reduction="add"
    )
    dims = [x.shape[d] for d in order]
    found = View.of(builder.reshape(builder.cast(total, source.dtype), dims), dims)
    result = found.transposed([order.index(d) for d in range(x.rank)])
    return [with_init(walk, result, op.operands[2], "stablehlo.add")]


def _keeps(op: ir.Operation) -> str:
    """The comparison under which the element selected so far stays selected."""
    select, scatter = (region.blocks[0] for region in op.regions)
    compare, *_ = [inner.operation for inner in select.operations]
    added = [inner.operation.name for inner in scatter.operations][:-1] == ["stablehlo.add"]
    plain = len(list(select.operations)) == 2 and compare.name == "stablehlo.compare"
    ordered = plain and list(compare.operands) == list(select.arguments)
    direction = comparison_direction(compare) if ordered else ""
    if not added or direction not in _KEEPS:
        raise NotConvertible("a select_and_scatter is converted where it compares two elements and adds up gradients")
    return _KEEPS[direction]


def _rows(builder: Builder, view: View, order: Sequence[int], target: Sequence[int]) -> oir.Value:
    whole = stored_view(builder, view, order)
    return builder.reshape(in_order(builder, whole, order), target)


def _chosen(builder: Builder, keeps: str, value: oir.Value, given: Sequence[Window], outs: Sequence[int]) -> oir.Value:
    """For each window the column of its element that is selected: one place of windows after the other, as XLA goes,
    so that equal elements and NaN are decided alike. Padding is never selected.
    """
    rows, *sizes = builder.shape(value)
    zero = builder.scalar(0, value.dtype or _D.FLOAT)
    padding = [(window.low, window.high) for window in given]
    padded = pad_axes(builder, value, range(1, 1 + len(given)), padding, zero)
    whole = View.of(padded, builder.shape(padded))
    columns = _columns(sizes, given)
    dims = [rows, *outs]
    best: oir.Value | None = None
    index = builder.constant(columns[0])
    for place, column in zip(itertools.product(*(range(window.size) for window in given)), columns, strict=True):
        starts = [0, *(p * window.dilation for p, window in zip(place, given, strict=True))]
        steps = [1, *(window.stride for window in given)]
        limits = [rows, *(s + (n - 1) * step + 1 for s, n, step in zip(starts[1:], outs, steps[1:], strict=True))]
        candidate = dense(builder, slice_axes(builder, whole, starts, limits, steps))
        outside, here = column < 0, builder.constant(column)
        if best is None:
            best, index, unset = candidate, here, outside
            continue
        stays = builder.op(keeps, best, candidate, shape=dims, dtype=_D.BOOL)
        if outside.any():
            stays = builder.op("Or", stays, builder.constant(outside), shape=dims)
        if (unset & ~outside).any():
            stays = builder.op("And", stays, builder.constant(~(unset & ~outside)), shape=dims)
        unset = unset & outside
        best = builder.op("Where", stays, best, candidate, shape=dims, data=1)
        index = builder.op("Where", stays, index, here, shape=dims, dtype=_D.INT64, data=1)
    return builder.expand(index, dims)


def _columns(sizes: Sequence[int], given: Sequence[Window]) -> list[np.ndarray]:
    """For each place in a window, in order, the column of the element that every window has there; -1 in padding."""
    lines = [window.positions(size) for size, window in zip(sizes, given, strict=True)]
    columns = []
    for place in itertools.product(*(range(window.size) for window in given)):
        grids = np.ix_(*(line[:, p] for line, p in zip(lines, place, strict=True)))
        outside = np.logical_or.reduce(np.broadcast_arrays(*(g == n for g, n in zip(grids, sizes, strict=True))))
        safe = [np.minimum(grid, size - 1) for grid, size in zip(grids, sizes, strict=True)]
        column = np.ravel_multi_index(np.broadcast_arrays(*safe), tuple(sizes))
        columns.append(np.where(outside, -1, column)[None].astype(np.int64))
    return columns


SELECT_SCATTER: dict[str, Lowering] = {"stablehlo.select_and_scatter": _select_and_scatter}
