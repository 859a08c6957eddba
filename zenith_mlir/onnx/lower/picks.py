"""Picking elements by indices along some dimensions: Gather, GatherElements or GatherND, whichever is least."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import onnx_ir as oir

from zenith_mlir.onnx.arrange import in_order
from zenith_mlir.onnx.builder import Builder
from zenith_mlir.onnx.lower.repeat import repeated
from zenith_mlir.onnx.view import View

__all__ = ["index_vectors", "pick"]

_D = oir.DataType


def pick(
    builder: Builder, view: View, picks: Mapping[int, View], batches: Mapping[int, int], joint: tuple[int, ...]
) -> View:
    """result[j..., r...] = view[...] with dimension d at `picks[d][j...]`, at j[batches[d]], or at its own r.

    `picks` are views of indices of the shape `joint`, within the bounds; negative ones count from the end. The other
    dimensions r follow those of `joint` in their order.
    """
    rest = [d for d in range(view.rank) if d not in picks and d not in batches]
    # Where the view repeats itself, it is the same at every index.
    varying = {d: index for d, index in picks.items() if view.axes[d] is not None}
    stored = list(varying.values())
    along = {d: j for d, j in batches.items() if view.axes[d] is not None}
    # A batch along which no index changes is a dimension like the others.
    paired = {d: j for d, j in along.items() if any(index.axes[j] is not None for index in stored)}
    used = sorted({j for index in stored for j in range(len(joint)) if index.axes[j] is not None})
    if not varying:
        value, names = view.value, {d: axis for d, axis in enumerate(view.axes) if axis is not None}
        found: dict[int, int] = {}
    elif len(varying) == 1 and not paired:
        value, names, found = _gather(builder, view, *next(iter(varying.items())))
    elif len(varying) == 1 and _is_elementwise(view, varying, paired, used):
        value, names, found = _gather_elements(builder, view, *next(iter(varying.items())), paired, used)
    else:
        value, names, found = _gather_nd(builder, view, varying, paired, used)
    axes: list[int | None] = [found.get(j) for j in range(len(joint))]
    for d, j in along.items():
        if d not in paired:
            axes[j] = names[d]
    axes += [names.get(d) for d in rest]
    return View(value, tuple(axes), (*joint, *(view.shape[d] for d in rest)))


# The value, the axes in it of dimensions of the view that are left, and those of dimensions of the indices.
_Picked = tuple[oir.Value, dict[int, int], dict[int, int]]


def _gather(builder: Builder, view: View, d: int, index: View) -> _Picked:
    """One index along one dimension: its dimensions take the place of that one."""
    order, index_order = view.order, index.order
    at = order.index(d)
    operand, indices = in_order(builder, view, order), in_order(builder, index, index_order)
    dims = [*(view.shape[o] for o in order[:at]), *(index.shape[j] for j in index_order)]
    dims += [view.shape[o] for o in order[at + 1 :]]
    value = repeated(builder, operand, indices, at) or builder.op("Gather", operand, indices, shape=dims, axis=at)
    shift = len(index_order) - 1
    names = {o: axis if axis < at else axis + shift for axis, o in enumerate(order) if o != d}
    return value, names, {j: at + i for i, j in enumerate(index_order)}


def _is_elementwise(view: View, picks: Mapping[int, View], paired: Mapping[int, int], used: Sequence[int]) -> bool:
    """Whether nothing is left but batches and the dimension of the index, which has at most one dimension more."""
    return len(view.order) == len(picks) + len(paired) and len(set(used) - set(paired.values())) <= 1


def _gather_elements(
    builder: Builder, view: View, d: int, index: View, paired: Mapping[int, int], used: Sequence[int]
) -> _Picked:
    free = next((j for j in used if j not in paired.values()), None)
    order = view.order
    operand = in_order(builder, view, order)
    line = [free if o == d else paired[o] for o in order]
    dims = [1 if j is None else index.shape[j] for j in line]
    ordered = in_order(builder, index, [j for j in line if j is not None])
    stored = [1 if j is None or index.axes[j] is None else index.shape[j] for j in line]
    indices = builder.expand(builder.reshape(ordered, stored), dims)
    value = builder.op("GatherElements", operand, indices, shape=dims, axis=order.index(d))
    return value, {}, {j: axis for axis, j in enumerate(line) if j is not None}


def _gather_nd(
    builder: Builder, view: View, picks: Mapping[int, View], paired: Mapping[int, int], used: Sequence[int]
) -> _Picked:
    """Batches first, then the dimensions of the indices, then the others as they are stored."""
    left = [d for d in view.order if d not in picks and d not in paired]
    batch = list(paired)
    operand = in_order(builder, view, [*batch, *picks, *left])
    lead = [paired[d] for d in batch]
    joint = [*lead, *(j for j in used if j not in lead)]
    indices = index_vectors(builder, list(picks.values()), joint)
    sizes = [next(iter(picks.values())).shape[j] for j in joint]
    dims = [*sizes, *(view.shape[d] for d in left)]
    value = builder.op("GatherND", operand, indices, shape=dims, batch_dims=len(batch) or None)
    names = {d: len(joint) + i for i, d in enumerate(left)}
    return value, names, {j: axis for axis, j in enumerate(joint)}


def index_vectors(builder: Builder, indices: Sequence[View], dimensions: Sequence[int]) -> oir.Value:
    """int64 of `dimensions` of the indices and one more, along which they stand beside each other."""
    shape = [indices[0].shape[d] for d in dimensions]
    parts = []
    for index in indices:
        line = [1 if index.axes[d] is None else index.shape[d] for d in dimensions]
        part = builder.reshape(builder.cast(in_order(builder, index, dimensions), _D.INT64), [*line, 1])
        parts.append(builder.expand(part, [*shape, 1]))
    return parts[0] if len(parts) == 1 else builder.op("Concat", *parts, shape=[*shape, len(parts)], axis=len(shape))
