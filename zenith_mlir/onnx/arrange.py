"""Bringing views into the order that a node wants: transposed, with axes of size 1, expanded."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

import onnx_ir as oir

from zenith_mlir.onnx.builder import Builder
from zenith_mlir.onnx.view import View

__all__ = ["aligned", "common_order", "dense", "elementwise", "in_order", "stored_view"]


def dense(builder: Builder, view: View) -> oir.Value:
    """The value in the order and with all elements of the view."""
    return builder.expand(in_order(builder, view, range(view.rank)), view.shape)


def stored_view(builder: Builder, view: View, dimensions: Collection[int]) -> View:
    """The same with those of `dimensions` written out that it repeats."""
    repeated = [d for d in dimensions if d in view.repeated]
    if not repeated:
        return view
    order = sorted([*view.order, *repeated])
    value = builder.expand(in_order(builder, view, order), [view.shape[d] for d in order])
    return View(value, tuple(order.index(d) if d in order else None for d in range(view.rank)), view.shape)


def in_order(builder: Builder, view: View, dimensions: Sequence[int]) -> oir.Value:
    """A value whose axis i is dimension `dimensions[i]` of `view`; repeated dimensions have the size 1.

    `dimensions` name every dimension that the view does not repeat, each once.
    """
    value = _stored_in_order(builder, view, [d for d in dimensions if view.axes[d] is not None])
    return builder.reshape(value, [1 if view.axes[d] is None else view.shape[d] for d in dimensions])


def aligned(builder: Builder, view: View, dimensions: Sequence[int]) -> oir.Value:
    """As `in_order`, for a node that broadcasts: leading axes of size 1 may be missing, and axes of size 1 that the
    view does not look at are used where they stand.
    """
    if _broadcasts_as_stored(builder, view, dimensions):
        return view.value
    used = [d for d in dimensions if view.axes[d] is not None]
    value = _stored_in_order(builder, view, used)
    first = min((i for i, d in enumerate(dimensions) if view.axes[d] is not None), default=len(dimensions))
    return builder.reshape(value, [1 if view.axes[d] is None else view.shape[d] for d in dimensions[first:]])


def _stored_in_order(builder: Builder, view: View, dimensions: Sequence[int]) -> oir.Value:
    """The axes of these dimensions in this order, and no other."""
    axes = [view.axes[d] for d in dimensions]
    kept = sorted(axis for axis in axes if axis is not None)
    stored = builder.shape(view.value)
    value = view.value if len(kept) == len(stored) else builder.reshape(view.value, [stored[axis] for axis in kept])
    return builder.transpose(value, [kept.index(axis) for axis in axes if axis is not None])


def _broadcasts_as_stored(builder: Builder, view: View, dimensions: Sequence[int]) -> bool:
    """Whether axis -i of the value is dimension -i, or has the size 1 where that dimension repeats."""
    stored = view.stored_rank
    if stored > len(dimensions):
        return False
    names = {axis: d for d, axis in enumerate(view.axes) if axis is not None}
    last = list(dimensions)[len(dimensions) - stored :]
    if any(view.axes[d] is not None for d in dimensions[: len(dimensions) - stored]):
        return False
    return all(names.get(axis, d) == d and (axis in names) == (view.axes[d] is not None) for axis, d in enumerate(last))


def common_order(views: Sequence[View]) -> list[int]:
    """The dimensions that any of `views` stores, in the order of the one that is dearest to rearrange."""
    dearest = max(views, key=_weight)
    order = dearest.order
    for d in range(dearest.rank):
        if d not in order and any(view.axes[d] is not None for view in views):
            later = [i for i, other in enumerate(order) if other > d]
            order.insert(later[0] if later else len(order), d)
    return order


def _weight(view: View) -> tuple[bool, int]:
    """Constants are rearranged for nothing."""
    size = 1
    for d in view.order:
        size *= view.shape[d]
    return view.value.const_value is None, size


def elementwise(
    builder: Builder,
    op_type: str,
    *views: View,
    dtype: oir.DataType | None = None,
    data: int = 0,
    **attributes: Any,
) -> View:
    """A node that works element by element and broadcasts; all views have one shape.

    A dimension that all of them repeat stays repeated in the result.
    """
    order = common_order(views)
    values = [aligned(builder, view, order) for view in views]
    shape = [views[0].shape[d] for d in order]
    result = builder.op(op_type, *values, shape=shape, dtype=dtype, data=data, **attributes)
    axes: list[int | None] = [None] * views[0].rank
    for axis, d in enumerate(order):
        axes[d] = axis
    return View(result, tuple(axes), views[0].shape)
