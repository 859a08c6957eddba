"""Operations that pick and place features by constant indices: x[..., order], x.at[..., indices].set(y), and choices by
a constant condition.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from jaxlib.mlir import ir
from numpy.typing import NDArray

from zenith_mlir.ir.facts import int_list, shape
from zenith_mlir.match.constants import evaluate
from zenith_mlir.match.rotary import entries as algebra
from zenith_mlir.match.rotary.entries import Entries
from zenith_mlir.match.rotary.views import FEATURES, Combine, Read, View, along

if TYPE_CHECKING:
    from zenith_mlir.match.rotary.reader import Reader

Indices = NDArray[np.int64]


def _gather(reader: Reader, op: ir.Operation, view: View, read: Read) -> Entries | None:
    from jaxlib.mlir.dialects import stablehlo

    numbers = stablehlo.GatherDimensionNumbers(op.attributes["dimension_numbers"])
    window = int_list(op, "slice_sizes")
    found = _indices(
        op, numbers.start_index_map, numbers.collapsed_slice_dims, numbers.offset_dims, numbers.index_vector_dim, window
    )
    if found is None or view[found[0]] is not FEATURES:
        return None
    place, indices = found
    return read(op.operands[0], view).take(indices, axis=1 + place)


def _scatter(reader: Reader, op: ir.Operation, view: View, read: Read) -> Entries | None:
    from jaxlib.mlir.dialects import stablehlo

    numbers = stablehlo.ScatterDimensionNumbers(op.attributes["scatter_dimension_numbers"])
    body = [child.operation for child in op.regions[0].blocks[0].operations]
    replaces = len(body) == 1 and body[0].operands[0] == op.regions[0].blocks[0].arguments[1]
    adds = [child.name for child in body] == ["stablehlo.add", "stablehlo.return"]
    if len(op.operands) != 3 or not (replaces or adds):
        return None
    window = [1 if i in numbers.inserted_window_dims else n for i, n in enumerate(shape(op.operands[2]))]
    found = _indices(
        op,
        numbers.scattered_dims_to_operand_dims,
        numbers.inserted_window_dims,
        numbers.update_window_dims,
        numbers.index_vector_dim,
        window,
    )
    if found is None or view[found[0]] is not FEATURES or len(set(found[1].tolist())) != found[1].size:
        return None
    place, indices = found
    before, update = read(op.operands[0], view), read(op.operands[2], view)
    where = (slice(None),) * (1 + place) + (indices,)
    if adds:
        placed = np.zeros((len(update), *before.shape[1:]), algebra.TERM)
        placed[where] = update
        return algebra.compact(algebra.total([before, placed]))
    terms = max(len(before), len(update))
    out = algebra.padded(before, terms)
    out[where] = algebra.padded(update, terms)
    return out


def _update_slice(reader: Reader, op: ir.Operation, view: View, read: Read) -> Entries | None:
    """One value written over a part of another, at a constant place."""
    ranges = _window(view, list(op.operands)[2:], shape(op.operands[1]), shape(op.operands[0]))
    if ranges is None:
        return None
    before, update = read(op.operands[0], view), read(op.operands[1], view)
    terms = max(len(before), len(update))
    out = algebra.padded(before, terms)
    out[along(view, ranges)] = algebra.padded(update, terms)
    return out


def _dynamic_slice(reader: Reader, op: ir.Operation, view: View, read: Read) -> Entries | None:
    """A part of a value, at a constant place."""
    ranges = _window(view, list(op.operands)[1:], shape(op.results[0]), shape(op.operands[0]))
    return None if ranges is None else read(op.operands[0], view)[along(view, ranges)]


def _window(view: View, starts: list[ir.Value], part: Sequence[int], whole: Sequence[int]) -> list[slice] | None:
    """Where the part lies: along features at a constant place, along all other axes everywhere."""
    out = []
    for dim, value, size, outer in zip(view, starts, part, whole, strict=True):
        start = evaluate(value) if size != outer else np.zeros(())
        if start is None or (dim is not FEATURES and size != outer):
            return None
        # A start too far back is moved so that the part fits.
        first = min(max(int(start), 0), outer - size)
        out.append(slice(first, first + size))
    return out


def _indices(
    op: ir.Operation,
    mapped: list[int],
    collapsed: list[int],
    offsets: list[int],
    vector_dim: int,
    window: list[int],
) -> tuple[int, Indices] | None:
    """The dimension that is indexed, and its indices, where all others are taken whole and in order; None for all that
    is not so.
    """
    whole, starts = shape(op.operands[0]), evaluate(op.operands[1])
    if starts is None or len(mapped) != 1:
        return None
    (place,) = mapped
    rank = len(whole)
    if list(collapsed) == [place]:
        # One element at each of several places.
        indices, others = starts.ravel(), [i for i in range(rank) if i != place]
        fits = starts.ndim == 2 and vector_dim == 1 and window[place] == 1 and list(offsets) == others
    else:
        # A row of neighbours.
        indices = starts.ravel()[:1] + np.arange(window[place] if place < len(window) else 0)
        fits = starts.size == 1 and starts.ndim == 1 and not list(collapsed) and list(offsets) == list(range(rank))
    same = len(window) == rank and all(window[i] == whole[i] for i in range(rank) if i != place)
    inside = indices.size > 0 and indices.min() >= 0 and indices.max() < whole[place]
    return (place, indices.astype(np.int64)) if fits and same and inside else None


def _select(reader: Reader, op: ir.Operation, view: View, read: Read) -> Entries | None:
    condition = evaluate(op.operands[0])
    if condition is None or condition.ndim != len(view):
        return None
    narrow = condition[tuple(slice(None) if dim is FEATURES else slice(0, 1) for dim in view)]
    if (condition != narrow).any():
        return None
    if narrow.all() or not narrow.any():
        return read(op.operands[1 if narrow.all() else 2], view)
    parts = [read(operand, view) for operand in list(op.operands)[1:]]
    terms = max(map(len, parts))
    return np.where(narrow[None], *(algebra.padded(part, terms) for part in parts))


INDEXING: dict[str, Combine] = {
    "stablehlo.gather": _gather,
    "stablehlo.scatter": _scatter,
    "stablehlo.select": _select,
    "stablehlo.dynamic_slice": _dynamic_slice,
    "stablehlo.dynamic_update_slice": _update_slice,
}
