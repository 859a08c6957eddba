"""The node that writes updates to places, and the types and orders of axes that it wants."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import onnx_ir as oir

from zenith_mlir.onnx.arrange import in_order, stored_view
from zenith_mlir.onnx.builder import Builder
from zenith_mlir.onnx.convert import NotConvertible
from zenith_mlir.onnx.lower.picks import index_vectors
from zenith_mlir.onnx.view import View

__all__ = ["SET", "combine"]

_D = oir.DataType
SET = "set"
_REDUCTIONS = {SET: None, "add": "add", "multiply": "mul", "minimum": "min", "maximum": "max"}
# On truth values onnxruntime adds as `or` and multiplies as `and`, and knows no extremes.
_LOGICAL = {SET: None, "add": "add", "or": "add", "maximum": "add", "multiply": "mul", "and": "mul", "minimum": "mul"}
_NARROW = (_D.FLOAT16, _D.BFLOAT16)


def combine(builder: Builder, kind: str, view: View, places: Mapping[int, View], values: View) -> View:
    """`view` with `values[j..., r...]` combined into the element at `places[d][j...]` of dimensions d and r of others.

    The places are within the bounds. Of several values that are set at one place the last stays.

    Raises:
        NotConvertible: where ONNX cannot combine so, or only in a later opset.
    """
    reduction = _reduction(builder, kind, view.dtype)
    view = stored_view(builder, view, range(view.rank))
    order = [*view.order, *(d for d in range(view.rank) if view.axes[d] is None)]
    joint = range(values.rank - view.rank + len(places))
    leading = set(order[: len(places)]) == set(places)
    known = _known_line(builder, view, places) if kind == SET else None
    if known is not None:
        ((d, _),) = places.items()
        if not leading or len(set(known)) == view.shape[d]:
            return _rearranged(builder, view, values, order, d, known)
    if not leading and len(places) == 1:
        return _elements(builder, reduction, view, places, values, order)
    if not leading:
        order = [*(d for d in order if d in places), *(d for d in order if d not in places)]
    rest = [d for d in range(view.rank) if d not in places]
    array = in_order(builder, view, order)
    lead = order[: len(places)]
    indices = index_vectors(builder, [places[d] for d in lead], joint)
    behind = [len(joint) + rest.index(d) for d in order[len(places) :]]
    updates = _expanded(builder, values, [*joint, *behind])
    result = _scattered(builder, "ScatterND", reduction, array, indices, updates)
    return View(result, tuple(order.index(d) for d in range(view.rank)), view.shape)


def _reduction(builder: Builder, kind: str, dtype: oir.DataType) -> str | None:
    names = _LOGICAL if dtype == _D.BOOL else _REDUCTIONS
    if kind not in names:
        raise NotConvertible(f"a scatter with `{kind}` of {dtype.name.lower()} has no ONNX form")
    reduction = names[kind]
    if reduction in ("min", "max") and builder.opset < 18:
        raise NotConvertible(f"a scatter with `{kind}` needs opset 18; this is opset {builder.opset}")
    return reduction


def _expanded(builder: Builder, view: View, dimensions: Sequence[int]) -> oir.Value:
    return builder.expand(in_order(builder, view, dimensions), [view.shape[d] for d in dimensions])


def _known_line(builder: Builder, view: View, places: Mapping[int, View]) -> np.ndarray | None:
    """Known places along one dimension, which do not count from the end."""
    if len(places) != 1:
        return None
    ((d, place),) = places.items()
    known = builder.array(place.value)
    if known is None or place.order != list(range(place.rank)) or builder.sizes.is_symbolic(view.shape[d]):
        return None
    line = known.reshape(-1)
    return line % view.shape[d]


def _rearranged(builder: Builder, view: View, values: View, order: Sequence[int], d: int, line: np.ndarray) -> View:
    """Setting known places along one axis: a Gather from the array and the updates beside each other."""
    axis = order.index(d)
    dims = [view.shape[each] for each in order]
    updates = _flat(builder, values, order, d, len(line))
    source = np.arange(dims[axis])
    source[line] = dims[axis] + np.arange(len(line))
    if (source >= dims[axis]).all():
        both, source = updates, source - dims[axis]
    else:
        joined = [size + len(line) * (i == axis) for i, size in enumerate(dims)]
        both = builder.op("Concat", in_order(builder, view, order), updates, shape=joined, axis=axis)
    if len(source) == builder.shape(both)[axis] and (source == np.arange(len(source))).all():
        result = both
    else:
        result = builder.op("Gather", both, builder.constant(source), shape=dims, axis=axis)
    return View(result, tuple(order.index(each) for each in range(view.rank)), view.shape)


def _flat(builder: Builder, values: View, order: Sequence[int], d: int, count: int) -> oir.Value:
    """Updates in the order of the array, those along dimension d in one axis."""
    rest = sorted(each for each in order if each != d)
    joint = values.rank - len(rest)
    line: list[int] = []
    for each in order:
        line += range(joint) if each == d else [joint + rest.index(each)]
    value = _expanded(builder, values, line)
    dims = [count if each == d else values.shape[joint + rest.index(each)] for each in order]
    return builder.reshape(value, dims)


def _elements(
    builder: Builder,
    reduction: str | None,
    view: View,
    places: Mapping[int, View],
    values: View,
    order: Sequence[int],
) -> View:
    """Along one axis that is not the first: ScatterElements leaves the others where they are."""
    ((d, place),) = places.items()
    axis = order.index(d)
    count = 1
    for size in place.shape:
        count *= size
    updates = _flat(builder, values, order, d, count)
    flat = builder.reshape(_expanded(builder, place, range(place.rank)), [count])
    line = builder.reshape(flat, [count if i == axis else 1 for i in range(len(order))])
    indices = builder.expand(line, builder.shape(updates))
    array = in_order(builder, view, order)
    result = _scattered(builder, "ScatterElements", reduction, array, indices, updates, axis=axis)
    return View(result, tuple(order.index(each) for each in range(view.rank)), view.shape)


def _scattered(
    builder: Builder,
    op_type: str,
    reduction: str | None,
    array: oir.Value,
    indices: oir.Value,
    updates: oir.Value,
    axis: int | None = None,
) -> oir.Value:
    """One node; with the extremes a second one for NaN, which XLA keeps and onnxruntime may lose."""
    dtype, shape = array.dtype, builder.shape(array)
    assert dtype is not None

    def node(into: oir.Value, what: oir.Value, how: str | None) -> oir.Value:
        return builder.op(op_type, into, indices, what, shape=shape, axis=axis, reduction=how)

    if reduction is not None and dtype in _NARROW:
        # onnxruntime combines no floats of 16 bits; the sum is rounded once.
        wide = node(builder.cast(array, _D.FLOAT), builder.cast(updates, _D.FLOAT), reduction)
        result = builder.cast(wide, dtype)
    else:
        result = node(array, updates, reduction)
    if reduction not in ("min", "max") or not dtype.is_floating_point():
        return result
    flags = [builder.op("IsNaN", each, shape=builder.shape(each), dtype=_D.BOOL) for each in (array, updates)]
    lost = node(flags[0], flags[1], "add")
    return builder.op("Where", lost, builder.scalar(np.nan, dtype), result, shape=shape, dtype=dtype, data=2)
