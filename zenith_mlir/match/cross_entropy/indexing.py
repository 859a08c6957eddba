"""What gathers and scatters along the columns read and write, in terms of axes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from jaxlib.mlir import ir
from jaxlib.mlir.dialects import stablehlo

from zenith_mlir.canonical.splats import comparison_direction
from zenith_mlir.ir.facts import defined_by, int_list, shape
from zenith_mlir.match.affine import affine, index_along
from zenith_mlir.match.axes import Axis, AxisSpace, View
from zenith_mlir.match.constants import evaluate
from zenith_mlir.match.cross_entropy.sampling import Placed


@dataclass(frozen=True)
class Lookup:
    """An element of each row: `view` is that of the other tensor, the operand of a gather or the updates of a scatter.

    `index` says which column is meant; None where there is no column to choose. `rows_of_table` says that it chooses a
    row of a table whose columns are those of the logits.
    """

    view: View
    index: Placed | None
    at: dict[Axis, int] = field(default_factory=dict)
    rows_of_table: bool = False


@dataclass(frozen=True)
class _Dims:
    """The dimensions of a gather or scatter, `larger` being what is indexed."""

    larger: Sequence[int]
    window: Sequence[int]
    collapsed: Sequence[int]
    batching: Sequence[int]
    indices_batching: Sequence[int]
    index_map: Sequence[int]
    vector_dim: int


def gather_lookup(space: AxisSpace, op: ir.Operation, view: View, column: Axis) -> Lookup | None:
    """What a gather whose result has `view` reads, if it reads one column of each row."""
    numbers = stablehlo.GatherDimensionNumbers(op.attributes["dimension_numbers"])
    dims = _Dims(
        shape(op.operands[0]),
        numbers.offset_dims,
        numbers.collapsed_slice_dims,
        numbers.operand_batching_dims,
        numbers.start_indices_batching_dims,
        numbers.start_index_map,
        numbers.index_vector_dim,
    )
    sizes = int_list(op, "slice_sizes")
    kept = [d for d in range(len(dims.larger)) if d not in dims.collapsed and d not in dims.batching]
    if any(sizes[d] != dims.larger[d] for d in kept):
        return None
    indices = op.operands[1]
    batch = iter(dim for i, dim in enumerate(view) if i not in dims.window)
    along = [() if i == dims.vector_dim else next(batch) for i in range(len(shape(indices)))]
    windows = dict(zip(kept, (view[i] for i in dims.window), strict=True))
    operand: list[tuple[Axis, ...]] = []
    index: Placed | None = None
    at: dict[Axis, int] = {}
    for d, size in enumerate(dims.larger):
        if d in windows:
            operand.append(windows[d])
        elif d in dims.batching:
            operand.append(along[dims.indices_batching[list(dims.batching).index(d)]])
        elif size == 1:
            operand.append(())
        elif (running := _runs_along(_component(indices, dims, d), dims.vector_dim, size)) is not None:
            operand.append(along[running])
        elif index is None and size == space.size(column):
            index, at = _chosen(space, indices, along, dims, d)
            operand.append((column,))
        else:
            return None
    return Lookup(tuple(operand), index, at, rows_of_table=operand.count((column,)) > 1)


def is_identity(space: AxisSpace, table: ir.Value) -> bool:
    """Whether `table` is an identity matrix, made by comparing indices."""
    table = through_booleans(table)
    op = defined_by(table, "stablehlo.compare")
    if op is None or comparison_direction(op) != "EQ" or len(shape(table)) != 2:
        return False
    view = space.fresh_view(shape(table))
    found = [affine(space, operand, view) for operand in op.operands]
    return all(index_along(space, dim) in found for dim in view) and shape(table)[0] == shape(table)[1] > 1


def through_booleans(value: ir.Value) -> ir.Value:
    """What a matrix of zeros and ones was before it became numbers."""
    while (op := defined_by(value, "stablehlo.convert")) is not None:
        value = op.operands[0]
    return value


def scatter_lookup(space: AxisSpace, op: ir.Operation, view: View, column: Axis) -> Lookup | None:
    """What a scatter whose result has `view` takes its updates from, if it writes one column of each row."""
    numbers = stablehlo.ScatterDimensionNumbers(op.attributes["scatter_dimension_numbers"])
    dims = _Dims(
        shape(op.operands[0]),
        numbers.update_window_dims,
        numbers.inserted_window_dims,
        numbers.input_batching_dims,
        numbers.scatter_indices_batching_dims,
        numbers.scattered_dims_to_operand_dims,
        numbers.index_vector_dim,
    )
    indices, updates = op.operands[1], op.operands[2]
    kept = [d for d in range(len(dims.larger)) if d not in dims.collapsed and d not in dims.batching]
    windows = {i: view[d] for i, d in zip(dims.window, kept, strict=True)}
    if any(shape(updates)[i] != dims.larger[d] for i, d in zip(dims.window, kept, strict=True)):
        return None
    along: list[tuple[Axis, ...]] = [()] * len(shape(indices))
    chosen = None
    for d, size in enumerate(dims.larger):
        if d in kept:
            continue
        if d in dims.batching:
            along[dims.indices_batching[list(dims.batching).index(d)]] = view[d]
        elif size == 1:
            if not _is_zero(_component(indices, dims, d)):
                return None
        elif (running := _runs_along(_component(indices, dims, d), dims.vector_dim, size)) is not None:
            along[running] = view[d]
        elif chosen is None and space.resolve(view[d]) == space.resolve((column,)):
            chosen = d
        else:
            return None
    if any(size != 1 and not along[i] for i, size in enumerate(shape(indices)) if i != dims.vector_dim):
        return None
    batch = iter(dim for i, dim in enumerate(along) if i != dims.vector_dim)
    updates_view = tuple(windows[i] if i in windows else next(batch) for i in range(len(shape(updates))))
    if chosen is None:
        return Lookup(updates_view, None)
    return Lookup(updates_view, *_chosen(space, indices, along, dims, chosen))


def _component(indices: ir.Value, dims: _Dims, d: int) -> ir.Value | None:
    """The part of `indices` that says where along dimension `d` of the larger tensor."""
    if d not in dims.index_map:
        return None
    position = list(dims.index_map).index(d)
    if dims.vector_dim == len(shape(indices)) or shape(indices)[dims.vector_dim] == 1:
        return indices
    joined = defined_by(indices, "stablehlo.concatenate")
    if joined is None or ir.IntegerAttr(joined.attributes["dimension"]).value != dims.vector_dim:
        return None
    parts = list(joined.operands)
    return parts[position] if len(parts) == shape(indices)[dims.vector_dim] else None


def _is_zero(component: ir.Value | None) -> bool:
    array = None if component is None else evaluate(component)
    return array is not None and not array.any()


def _runs_along(component: ir.Value | None, vector_dim: int, size: int) -> int | None:
    """The dimension along which `component` counts 0, 1, ... up to `size`."""
    array = None if component is None else evaluate(component)
    if array is None:
        return None
    for dim, extent in enumerate(array.shape):
        if dim != vector_dim and extent == size:
            line = np.arange(size).reshape([size if i == dim else 1 for i in range(array.ndim)])
            if (array == line).all():
                return dim
    return None


def _chosen(
    space: AxisSpace, indices: ir.Value, along: Sequence[tuple[Axis, ...]], dims: _Dims, d: int
) -> tuple[Placed, dict[Axis, int]]:
    """The component of `indices` for dimension `d`."""
    if dims.vector_dim == len(shape(indices)) or shape(indices)[dims.vector_dim] == 1:
        return Placed(indices, tuple(along)), {}
    axis = space.new(shape(indices)[dims.vector_dim])
    view = tuple((axis,) if i == dims.vector_dim else axes for i, axes in enumerate(along))
    return Placed(indices, view), {axis: list(dims.index_map).index(d)}
