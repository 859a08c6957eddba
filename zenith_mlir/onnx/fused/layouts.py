"""Views whose dimensions are named by layouts (zenith_mlir/dialects/layout.py), brought into the groups of axes that a
node wants, and results of nodes as the layouts that the program wants.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import onnx_ir as oir

from zenith_mlir.dialects.layout import Layout
from zenith_mlir.onnx.arrange import in_order, stored_view
from zenith_mlir.onnx.builder import Builder
from zenith_mlir.onnx.view import View

__all__ = ["arranged", "is_moved", "laid_out", "over"]

Sizes = Mapping[str, int]
Groups = Sequence[Sequence[str]]


def arranged(
    builder: Builder, view: View, layout: Layout, sizes: Sizes, groups: Groups, whole: bool = False
) -> oir.Value:
    """A value with an axis for each group, of the product of its sizes. Where `view` repeats a whole group, or lacks
    it, the axis has the size 1, unless all should be `whole`.
    """
    if not is_moved(view, layout, sizes, groups):
        return builder.reshape(view.value, [math.prod(sizes[axis] for axis in group) for group in groups])
    order = [axis for group in groups for axis in group]
    plain = over(builder, view, layout, sizes, order)
    lacking = {order[d] for d in plain.repeated}
    named = [axis for group in groups for axis in group if whole or not set(group) <= lacking]
    plain = stored_view(builder, plain, [order.index(axis) for axis in named if axis in lacking])
    value = in_order(builder, plain, range(plain.rank))
    kept = builder.shape(value)
    return builder.reshape(value, [math.prod(kept[order.index(axis)] for axis in group) for group in groups])


def is_moved(view: View, layout: Layout, sizes: Sizes, groups: Groups) -> bool:
    """Whether the groups need another order of elements, or more of them, than `view` stores."""
    stored = [axis for d in view.order for axis in layout.dims[d] if sizes[axis] != 1]
    return stored != [axis for group in groups for axis in group if sizes[axis] != 1]


def over(builder: Builder, view: View, layout: Layout, sizes: Sizes, order: Sequence[str]) -> View:
    """`view` with a dimension for each axis of `order`, repeated along those that its layout lacks."""
    split = _split(builder, view, layout, sizes)
    axes = tuple(split.get(axis) for axis in order)
    stored = _stored_split(builder, view, layout, sizes)
    return View(stored, axes, tuple(sizes[axis] for axis in order))


def _split(builder: Builder, view: View, layout: Layout, sizes: Sizes) -> dict[str, int]:
    """The axis of the value of `_stored_split` for each name."""
    place: dict[str, int] = {}
    position = 0
    for group in _stored_groups(view, layout):
        place.update({axis: position + i for i, axis in enumerate(group)})
        position += max(len(group), 1)
    return place


def _stored_split(builder: Builder, view: View, layout: Layout, sizes: Sizes) -> oir.Value:
    """The value with every group of axes as axes of their own."""
    dims = [size for group in _stored_groups(view, layout) for size in ([sizes[axis] for axis in group] or [1])]
    return builder.reshape(view.value, dims)


def _stored_groups(view: View, layout: Layout) -> list[Sequence[str]]:
    """For each stored axis the names of what it runs over; none for one of size 1."""
    named = {axis: layout.dims[d] for d, axis in enumerate(view.axes) if axis is not None}
    return [named.get(axis, ()) for axis in range(view.stored_rank)]


def laid_out(builder: Builder, value: oir.Value, groups: Groups, layout: Layout, sizes: Sizes) -> View:
    """`value`, which has an axis for each group, as `layout` has it; transposed lazily where that can be."""
    groups = [tuple(group) for group in groups]
    shape = layout.shape(sizes)
    if all(len(dim) == 0 or dim in groups for dim in layout.dims):
        return View(value, tuple(groups.index(dim) if dim else None for dim in layout.dims), shape)
    order = [axis for group in groups for axis in group]
    if [axis for axis in order if sizes[axis] != 1] == [axis for axis in layout.axes if sizes[axis] != 1]:
        return View.of(builder.reshape(value, shape), shape)
    plain = builder.reshape(value, [sizes[axis] for axis in order])
    view = View(plain, tuple(order.index(axis) for axis in layout.axes), tuple(sizes[axis] for axis in layout.axes))
    if all(len(dim) <= 1 for dim in layout.dims):
        own = iter(view.axes)
        return View(plain, tuple(next(own) if dim else None for dim in layout.dims), shape)
    return View.of(builder.reshape(in_order(builder, view, range(view.rank)), shape), shape)
