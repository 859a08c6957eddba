"""stablehlo.gather and dynamic_slice: slices of equal size that start at given indices."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as oir
from jaxlib.mlir import ir
from jaxlib.mlir.dialects import stablehlo

from zenith_mlir.ir.facts import int_list, shape
from zenith_mlir.onnx.arrange import elementwise, in_order
from zenith_mlir.onnx.builder import Builder
from zenith_mlir.onnx.convert import Lowering, Walk
from zenith_mlir.onnx.lower.indices import column, scalar_column, start
from zenith_mlir.onnx.lower.picks import pick
from zenith_mlir.onnx.lower.shape import number_line, slice_axes
from zenith_mlir.onnx.view import View

__all__ = ["GATHER"]

_D = oir.DataType


@dataclass(frozen=True)
class _Slices:
    """What a gather takes: `sizes` of every dimension of the operand, from the starts of `mapped` dimensions; those of
    `batches` at the index of a dimension of `joint`, which is the shape of the start indices without their vectors.
    """

    sizes: tuple[int, ...]
    mapped: tuple[int, ...]
    batches: Mapping[int, int]
    joint: tuple[int, ...]


def _gather(walk: Walk, op: ir.Operation) -> Sequence[View]:
    numbers = stablehlo.GatherDimensionNumbers(op.attributes["dimension_numbers"])
    operand, indices = op.operands
    vector, dims = numbers.index_vector_dim, shape(indices)
    batch_of = [d for d in range(len(dims)) if d != vector]
    batches = {
        d: batch_of.index(j)
        for d, j in zip(numbers.operand_batching_dims, numbers.start_indices_batching_dims, strict=True)
    }
    slices = _Slices(
        tuple(int_list(op, "slice_sizes")),
        tuple(numbers.start_index_map),
        batches,
        tuple(dims[d] for d in batch_of),
    )
    view = walk.view(operand)
    starts = {
        d: start(walk, column(walk, indices, vector, k), view.shape[d], slices.sizes[d])
        for k, d in enumerate(slices.mapped)
        if slices.sizes[d] != view.shape[d]
    }
    taken = _take(walk.builder, view, slices, {d: each.bounded for d, each in starts.items()})
    # From batches, then all dimensions of the operand but those of `batches`, to the order of the result.
    left = [d for d in range(view.rank) if d not in batches]
    collapsed = set(numbers.collapsed_slice_dims)
    offsets = iter([len(slices.joint) + i for i, d in enumerate(left) if d not in collapsed])
    joint = iter(range(len(slices.joint)))
    inside = set(numbers.offset_dims)
    return [_chosen(taken, [next(offsets if i in inside else joint) for i in range(len(shape(op.results[0])))])]


def _chosen(view: View, dimensions: Sequence[int]) -> View:
    """These dimensions in this order; the others have the size 1."""
    return View(view.value, tuple(view.axes[d] for d in dimensions), tuple(view.shape[d] for d in dimensions))


def _take(builder: Builder, view: View, slices: _Slices, starts: Mapping[int, View]) -> View:
    """All dimensions of the operand but batches behind those of `slices.joint`."""
    cut = [d for d in range(view.rank) if d not in starts and d not in slices.batches]
    limits = [slices.sizes[d] if d in cut else view.shape[d] for d in range(view.rank)]
    view = slice_axes(builder, view, [0] * view.rank, limits, [1] * view.rank)
    joint = slices.joint
    windows = [d for d in starts if slices.sizes[d] != 1]
    if windows and all(size == 1 for size in joint) and not slices.batches:
        scalars = {d: builder.reshape(index.value, ()) for d, index in starts.items()}
        found = slice_at(builder, view, scalars, slices.sizes)
        return View(found.value, (*(None for _ in joint), *found.axes), (*joint, *found.shape))
    wide = (*joint, *(slices.sizes[d] for d in windows))
    picks = {d: _widened(builder, index, wide) for d, index in starts.items()}
    for i, d in enumerate(windows):
        picks[d] = _counted(builder, picks[d], len(joint) + i)
    found = pick(builder, view, picks, slices.batches, wide)
    rest = iter(range(len(wide), found.rank))
    single = View(found.value, (*found.axes, None), (*found.shape, 1))
    order = list(range(len(joint)))
    for d in range(view.rank):
        if d in windows:
            order.append(len(joint) + windows.index(d))
        elif d in starts:
            order.append(found.rank)
        elif d not in slices.batches:
            order.append(next(rest))
    return _chosen(single, order)


def _widened(builder: Builder, index: View, wide: tuple[int, ...]) -> View:
    return index.broadcast(wide, range(index.rank))


def _counted(builder: Builder, index: View, d: int) -> View:
    """Indices of a window: those of its start and all behind it, along dimension d."""
    axes = tuple(0 if i == d else None for i in range(index.rank))
    steps = View(number_line(builder, index.shape[d], index.dtype), axes, index.shape)
    return elementwise(builder, "Add", index, steps)


def slice_at(builder: Builder, view: View, starts: Mapping[int, oir.Value], sizes: Sequence[int]) -> View:
    """The slice of `sizes` from these scalars on, which are within the bounds; all of other dimensions."""
    for d, first in starts.items():
        axis = view.axes[d]
        dims = tuple(sizes[d] if i == d else size for i, size in enumerate(view.shape))
        if axis is None:
            view = View(view.value, view.axes, dims)
            continue
        stored = list(builder.shape(view.value))
        if sizes[d] == 1:
            value = builder.op("Gather", view.value, first, shape=[*stored[:axis], *stored[axis + 1 :]], axis=axis)
            axes = tuple(None if i == d else a if a is None or a < axis else a - 1 for i, a in enumerate(view.axes))
            view = View(value, axes, dims)
            continue
        begin = builder.reshape(first, [1])
        length = builder.cast(builder.dims([sizes[d]]), _dtype(begin))
        array = builder.array(begin)
        end = (
            builder.constant(array + builder.array(length))
            if array is not None and builder.array(length) is not None
            else builder.op("Add", begin, length, shape=[1])
        )
        stored[axis] = sizes[d]
        axis_operand = builder.constant(np.asarray([axis]), _dtype(begin))
        view = View(builder.op("Slice", view.value, begin, end, axis_operand, shape=stored), view.axes, dims)
    return view


def _dtype(value: oir.Value) -> oir.DataType:
    assert value.dtype is not None
    return value.dtype


def _dynamic_slice(walk: Walk, op: ir.Operation) -> Sequence[View]:
    builder, view = walk.builder, walk.view(op.operands[0])
    sizes = int_list(op, "slice_sizes")
    starts = {
        d: start(walk, scalar_column(value), view.shape[d], sizes[d]).bounded
        for d, value in enumerate(list(op.operands)[1:])
        if sizes[d] != view.shape[d]
    }
    known = {d: int(number) for d, index in starts.items() if (number := _known(builder, index)) is not None}
    firsts = [known.get(d, 0) for d in range(view.rank)]
    limits = [known[d] + sizes[d] if d in known else size for d, size in enumerate(view.shape)]
    view = slice_axes(builder, view, firsts, limits, [1] * view.rank)
    unknown = {d: in_order(builder, index, []) for d, index in starts.items() if d not in known}
    return [slice_at(builder, view, unknown, sizes)]


def _known(builder: Builder, index: View) -> int | None:
    array = builder.array(index.value)
    return None if array is None else int(array.reshape(()))


GATHER: dict[str, Lowering] = {
    "stablehlo.gather": _gather,
    "stablehlo.dynamic_slice": _dynamic_slice,
}
