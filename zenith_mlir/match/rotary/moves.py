"""Operations that move the features of a value: each moves its entries."""

from __future__ import annotations

from math import prod
from typing import TYPE_CHECKING

import numpy as np
from jaxlib.mlir import ir

from zenith_mlir.ir.dots import DotDims
from zenith_mlir.ir.facts import defined_by, element_type, int_list, is_float, is_float_convert, shape, splat
from zenith_mlir.match.rotary import entries as algebra
from zenith_mlir.match.rotary.entries import Entries
from zenith_mlir.match.rotary.signs import is_signs, signs
from zenith_mlir.match.rotary.views import FEATURES, Combine, Dim, Read, View, along, extents

if TYPE_CHECKING:
    from zenith_mlir.match.rotary.reader import Reader

_MAX_UNITS = 8
# Slices of longer rows are taken for themselves.
_MAX_FEATURES = 1 << 12


def _move(reader: Reader, op: ir.Operation, view: View, read: Read) -> Entries | None:
    inner = reader.operand_view(op, view)
    return None if inner is None else read(op.operands[0], inner)


def _transpose(reader: Reader, op: ir.Operation, view: View, read: Read) -> Entries | None:
    found = _move(reader, op, view, read)
    if found is None:
        return None
    order = [1 + i for i in int_list(op, "permutation")]
    return found.transpose([0, *order, *range(1 + len(order), found.ndim)])


def _reshape(reader: Reader, op: ir.Operation, view: View, read: Read) -> Entries | None:
    found = _move(reader, op, view, read)
    return None if found is None else found.reshape(len(found), *extents(op.results[0], view))


def _broadcast(reader: Reader, op: ir.Operation, view: View, read: Read) -> Entries | None:
    found = _move(reader, op, view, read)
    if found is None:
        return None
    dims = extents(op.results[0], view)
    placed = [1] * len(view) + dims[len(view) :]
    for i, dim in enumerate(int_list(op, "broadcast_dimensions")):
        placed[dim] = found.shape[1 + i]
    return np.broadcast_to(found.reshape(len(found), *placed), (len(found), *dims))


def _convert(reader: Reader, op: ir.Operation, view: View, read: Read) -> Entries | None:
    if is_float_convert(op):
        return read(op.operands[0], view)
    return _as_complex(reader, op, view, read)


def _as_complex(reader: Reader, op: ir.Operation, view: View, read: Read) -> Entries | None:
    """A real number as a complex one."""
    if not isinstance(element_type(op.results[0]), ir.ComplexType) or not is_float(element_type(op.operands[0])):
        return None
    found = read(op.operands[0], view)
    return algebra.stacked([found, algebra.numbers(np.zeros(found.shape[1:]))])


def _negate(reader: Reader, op: ir.Operation, view: View, read: Read) -> Entries | None:
    return algebra.negated(read(op.operands[0], view))


def _slice(reader: Reader, op: ir.Operation, view: View, read: Read) -> Entries | None:
    ranges = [
        slice(*limits)
        for limits in zip(*(int_list(op, name) for name in ("start_indices", "limit_indices", "strides")), strict=True)
    ]
    whole = zip(view, shape(op.operands[0]), shape(op.results[0]), strict=True)
    if any(dim is not FEATURES and before != after for dim, before, after in whole):
        # A unit dimension cut out of a larger one is a feature, too: x[..., 0] of pairs.
        return _slice_of_units(op, view, ranges, read)
    if prod(extents(op.operands[0], view)) > _MAX_FEATURES:
        return None
    return read(op.operands[0], view)[along(view, ranges)]


def _slice_of_units(op: ir.Operation, view: View, ranges: list[slice], read: Read) -> Entries | None:
    inner: list[Dim] = []
    for dim, before, after in zip(view, shape(op.operands[0]), shape(op.results[0]), strict=True):
        cut = dim is not FEATURES and before != after
        if cut and (after != 1 or before > _MAX_UNITS):
            return None
        inner.append(FEATURES if cut else dim)
    return read(op.operands[0], tuple(inner))[along(tuple(inner), ranges)]


def _reverse(reader: Reader, op: ir.Operation, view: View, read: Read) -> Entries | None:
    turned = int_list(op, "dimensions")
    if any(view[dim] is not FEATURES for dim in turned):
        return None
    found = read(op.operands[0], view)
    return found[along(view, [slice(None, None, -1 if i in turned else 1) for i in range(len(view))])]


def _concatenate(reader: Reader, op: ir.Operation, view: View, read: Read) -> Entries | None:
    dim = ir.IntegerAttr(op.attributes["dimension"]).value
    if view[dim] is not FEATURES:
        return None
    return algebra.joined(reader.read_all(op, view, read), dim)


def _pad(reader: Reader, op: ir.Operation, view: View, read: Read) -> Entries | None:
    if splat(op.operands[1]) != 0:
        return None
    low, high, inside = (int_list(op, name) for name in ("edge_padding_low", "edge_padding_high", "interior_padding"))
    paddings = list(zip(low, high, inside, strict=True))
    if (
        not all(dim is FEATURES or not any(padding) for dim, padding in zip(view, paddings, strict=True))
        or min(*low, *high) < 0
    ):
        return None
    found = read(op.operands[0], view)
    out = np.zeros((len(found), *extents(op.results[0], view)), algebra.TERM)
    sizes = shape(op.results[0])
    places = [slice(lo, n - hi, 1 + mid) for (lo, hi, mid), n in zip(paddings, sizes, strict=True)]
    out[along(view, places)] = found
    return out


def _constant(reader: Reader, op: ir.Operation, view: View, read: Read) -> Entries | None:
    values = signs(op.results[0])
    if values is None:
        return None
    narrow = values[tuple(slice(None) if dim is FEATURES else slice(0, 1) for dim in view)]
    return algebra.numbers(narrow) if (values == narrow).all() else None


def signed(reader: Reader, op: ir.Operation, view: View, read: Read) -> Entries | None:
    """A product with signs only moves."""
    left, right = op.operands
    if is_signs(left):
        left, right = right, left
    return algebra.product(read(left, view), reader.piece(right, view)) if is_signs(right) else None


def _permuted(reader: Reader, op: ir.Operation, view: View, read: Read) -> Entries | None:
    """A product with a constant matrix that has one sign a column."""
    dims = DotDims.of(op)
    constant = [defined_by(operand, "stablehlo.constant") is not None for operand in op.operands]
    side = constant.index(True) if any(constant) else None
    if side is None or len(shape(op.operands[side])) != 2 or dims.lhs_batch or len(dims.lhs_contracting) != 1:
        return None
    mine, theirs = (dims.lhs_contracting[0], dims.rhs_contracting[0])[:: 1 if side == 0 else -1]
    place = 0 if side == 0 else len(view) - 1
    if view[place] is not FEATURES:
        return None
    matrix = signs(op.operands[side])
    if matrix is None:
        return None
    matrix = matrix if mine == 0 else matrix.T
    if (np.count_nonzero(matrix, axis=0) != 1).any():
        return None
    inner = [dim for i, dim in enumerate(view) if i != place]
    inner.insert(theirs, FEATURES)
    moved = read(op.operands[1 - side], tuple(inner)).take(np.abs(matrix).argmax(axis=0), axis=1 + theirs)
    out: Entries = np.moveaxis(moved, 1 + theirs, 1 + place).copy()
    line = [1] * out.ndim
    line[1 + place] = -1
    out["factor"] *= matrix.sum(axis=0).reshape(line)
    return out


MOVES: dict[str, Combine] = {
    "stablehlo.transpose": _transpose,
    "stablehlo.reshape": _reshape,
    "stablehlo.broadcast_in_dim": _broadcast,
    "stablehlo.convert": _convert,
    "stablehlo.negate": _negate,
    "stablehlo.slice": _slice,
    "stablehlo.reverse": _reverse,
    "stablehlo.concatenate": _concatenate,
    "stablehlo.pad": _pad,
    "stablehlo.constant": _constant,
    "stablehlo.multiply": signed,
    "stablehlo.dot_general": _permuted,
}
