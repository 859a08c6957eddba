"""stablehlo.scatter: ScatterND or ScatterElements, with updates that are out of bounds left out as XLA does."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import onnx_ir as oir
from jaxlib.mlir import ir
from jaxlib.mlir.dialects import stablehlo

from zenith_mlir.ir.facts import defining_op, shape
from zenith_mlir.onnx.arrange import elementwise
from zenith_mlir.onnx.convert import Lowering, NotConvertible, Walk
from zenith_mlir.onnx.lower.gather import slice_at
from zenith_mlir.onnx.lower.indices import Start, clip, column, known_integers, start
from zenith_mlir.onnx.lower.number import splat_view
from zenith_mlir.onnx.lower.picks import pick
from zenith_mlir.onnx.lower.scatter_node import SET, combine
from zenith_mlir.onnx.lower.shape import number_line, pad_axes, slice_axes
from zenith_mlir.onnx.lower.update import write_slice
from zenith_mlir.onnx.view import View

__all__ = ["SCATTER"]

_D = oir.DataType


def _scatter(walk: Walk, op: ir.Operation) -> Sequence[View]:
    if len(op.operands) != 3:
        raise NotConvertible("a scatter of several operands has no ONNX form; scatter them one by one")
    kind = _kind(op)
    if not shape(op.operands[0]):
        raise NotConvertible("a scatter into a scalar has no ONNX form")
    view, updates = walk.view(op.operands[0]), walk.view(op.operands[2])
    if not math.prod(shape(op.operands[2])):
        return [view]
    if kind == "subtract":
        kind, updates = "add", elementwise(walk.builder, "Neg", updates)
    return [_written(walk, op, kind, view, updates)]


def _kind(op: ir.Operation) -> str:
    """What an update does to an element: "set", "add", ..., the only operation of the region."""
    body = op.regions[0].blocks[0]
    *inner, terminator = [each.operation for each in body.operations]
    (result,) = terminator.operands
    arguments = list(body.arguments)
    if result == arguments[1]:
        return SET
    found = defining_op(result)
    if len(inner) == 1 and found is not None:
        name, operands = found.name.removeprefix("stablehlo."), list(found.operands)
        ordered = operands == arguments or (name != "subtract" and operands == arguments[::-1])
        unsigned = name == "subtract" and "ui" in str(op.operands[0].type)
        if ordered and not unsigned and name in ("add", "subtract", "multiply", "minimum", "maximum", "and", "or"):
            return name
    raise NotConvertible("a scatter is converted where it sets, adds, multiplies or takes the extreme of elements")


def _written(walk: Walk, op: ir.Operation, kind: str, view: View, updates: View) -> View:
    builder = walk.builder
    numbers = stablehlo.ScatterDimensionNumbers(op.attributes["scatter_dimension_numbers"])
    indices, vector = op.operands[1], numbers.index_vector_dim
    windows = numbers.update_window_dims
    joint_dims = [d for d in range(updates.rank) if d not in windows]
    joint = tuple(updates.shape[d] for d in joint_dims)
    batch_of = [d for d in range(len(shape(indices))) if d != vector]
    batches = {
        d: batch_of.index(j)
        for d, j in zip(numbers.input_batching_dims, numbers.scatter_indices_batching_dims, strict=True)
    }
    held = [d for d in range(view.rank) if d not in numbers.inserted_window_dims and d not in batches]
    sizes = [1] * view.rank
    for d, w in zip(held, windows, strict=True):
        sizes[d] = updates.shape[w]
    alone = all(size == 1 for j, size in enumerate(joint) if j not in batches.values())
    starts = {}
    for k, d in enumerate(numbers.scattered_dims_to_operand_dims):
        col = column(walk, indices, vector, k)
        known = known_integers(builder.sizes, col.value)
        if sizes[d] != view.shape[d] or known is None or known.any():
            starts[d] = start(walk, col, view.shape[d], sizes[d], from_end=kind != SET or alone)
    cut = [d for d in held if sizes[d] != view.shape[d] or d in starts]
    if not cut and len(held) == view.rank:
        cut = held[:1]
    rest = [d for d in held if d not in cut]
    wide = (*joint, *(sizes[d] for d in cut))
    valid = _valid(walk, list(starts.values()))
    dim_of = dict(zip(held, windows, strict=True))
    if kind == SET and alone and not batches:
        axes = tuple(updates.axes[dim_of[d]] if d in dim_of else None for d in range(view.rank))
        return _one_slice(walk, view, View(updates.value, axes, tuple(sizes)), starts, valid)
    places: dict[int, View] = {d: _count(walk, wide, batches[d]) for d in batches}
    for d in range(view.rank):
        if d in batches or d in rest:
            continue
        first = starts[d].bounded.broadcast(wide, range(len(joint))) if d in starts else None
        counted = _count(walk, wide, len(joint) + cut.index(d)) if d in cut and sizes[d] != 1 else None
        places[d] = _sum(walk, first, counted, wide)
    places = {d: places[d] for d in sorted(places)}
    # [j..., w..., r...]
    values = updates.transposed([*joint_dims, *(dim_of[d] for d in cut), *(dim_of[d] for d in rest)])
    if valid is None:
        return combine(builder, kind, view, places, values)
    mask = valid.broadcast(values.shape, range(len(joint)))
    if kind != SET:
        neutral = splat_view(walk, _neutral(kind, values.dtype), values)
        return combine(builder, kind, view, places, _where(walk, mask, values, neutral))
    if alone:
        # Nobody else writes where an update that is left out would go.
        lead = {d: place for d, place in places.items() if d not in batches}
        there = pick(builder, view, lead, batches, wide)
        return combine(builder, kind, view, places, _where(walk, mask, values, there))
    return _with_waste(walk, view, places, values, valid, starts)


def _one_slice(walk: Walk, view: View, update: View, starts: dict[int, Start], valid: View | None) -> View:
    """The only update there is; what is there already, if it is left out."""
    builder = walk.builder
    bounded = {d: each.bounded for d, each in starts.items()}
    if valid is not None:
        scalars = {d: builder.reshape(index.value, ()) for d, index in bounded.items()}
        limits = [view.shape[d] if d in starts else size for d, size in enumerate(update.shape)]
        there = slice_axes(builder, view, [0] * view.rank, limits, [1] * view.rank)
        there = slice_at(builder, there, scalars, update.shape)
        mask = View(builder.reshape(valid.value, ()), (None,) * view.rank, update.shape)
        update = _where(walk, mask, update, there)
    return write_slice(builder, view, update, bounded)


def _with_waste(
    walk: Walk, view: View, places: dict[int, View], values: View, valid: View, starts: dict[int, Start]
) -> View:
    """Updates that are left out go to one element more along a dimension, which is cut off again."""
    builder = walk.builder
    d = next(d for d in starts)
    size = view.shape[d]
    place = places[d]
    padded = _one_longer(walk, view, d)
    single = len(starts) == 1 and place.shape == starts[d].given.shape and not builder.sizes.is_symbolic(size)
    if single:
        given = starts[d].given
        # -1 is the last, too.
        ends = [builder.scalar(end, given.dtype) for end in (-1, size)]
        places = {**places, d: clip(builder, given, *ends)}
    else:
        end = builder.cast(builder.reshape(builder.dims([size]), ()), place.dtype)
        waste = View(end, (None,) * place.rank, place.shape)
        mask = valid.broadcast(place.shape, range(valid.rank))
        places = {**places, d: _where(walk, mask, place, waste)}
    result = combine(builder, SET, padded, places, values)
    return slice_axes(builder, result, [0] * view.rank, view.shape, [1] * view.rank)


def _one_longer(walk: Walk, view: View, d: int) -> View:
    builder = walk.builder
    dims = tuple(size + (i == d) for i, size in enumerate(view.shape))
    if view.axes[d] is None:
        return View(view.value, view.axes, dims)
    fill = builder.scalar(0, view.dtype)
    return View(pad_axes(builder, view.value, [view.axes[d] or 0], [(0, 1)], fill), view.axes, dims)


def _valid(walk: Walk, starts: Sequence[Start]) -> View | None:
    """Where all starts are within the bounds; None for everywhere."""
    valid: View | None = None
    for each in starts:
        inside = each.inside(walk)
        if inside is not None:
            valid = inside if valid is None else elementwise(walk.builder, "And", valid, inside)
    return valid


def _count(walk: Walk, dims: tuple[int, ...], d: int) -> View:
    """0, 1, ... along dimension d."""
    line = number_line(walk.builder, dims[d], _D.INT64)
    return View(line, tuple(0 if i == d else None for i in range(len(dims))), dims)


def _sum(walk: Walk, first: View | None, counted: View | None, dims: tuple[int, ...]) -> View:
    if first is None or counted is None:
        found = first or counted
        return found or View(walk.builder.constant(np.asarray(0, np.int64)), (None,) * len(dims), dims)
    counted = counted.with_value(walk.builder.cast(counted.value, first.dtype))
    return elementwise(walk.builder, "Add", first, counted)


def _where(walk: Walk, mask: View, yes: View, no: View) -> View:
    return elementwise(walk.builder, "Where", mask, yes, no, dtype=yes.dtype, data=1)


def _neutral(kind: str, dtype: oir.DataType) -> float | int | bool:
    """What leaves every element as it is: -0.0, not 0.0, is what added to -0.0 gives -0.0."""
    if dtype == _D.BOOL:
        return kind in ("multiply", "and", "minimum")
    if kind in ("minimum", "maximum"):
        low, high = (-math.inf, math.inf) if dtype.is_floating_point() else _ends(dtype)
        return high if kind == "minimum" else low
    if kind == "multiply":
        return 1
    return -0.0 if dtype.is_floating_point() else 0


def _ends(dtype: oir.DataType) -> tuple[int, int]:
    info = np.iinfo(dtype.numpy())
    return int(info.min), int(info.max)


SCATTER: dict[str, Lowering] = {"stablehlo.scatter": _scatter}
