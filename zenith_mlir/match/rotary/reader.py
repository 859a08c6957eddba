"""Reading a value as a map along its features: from the result of a possible rotation up to the values it is made of.

The walk goes from the result to its operands and says of each dimension whether it runs over features or over other
axes, which are followed by name (`match/axes.py`). On the way back each operation moves or combines the entries of its
operands. Below a product only operations that move elements are followed; where they end there is a *root*: the rotated
value or a table. Above products there are sums, too.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from jaxlib.mlir import ir
from numpy.typing import NDArray

from zenith_mlir.ir.dots import DotDims
from zenith_mlir.ir.facts import defining_op, element_type, has_static_shape, int_list, is_float_convert, shape, splat
from zenith_mlir.match.axes import AxisSpace, Axis, operand_view
from zenith_mlir.match.constants import evaluate
from zenith_mlir.match.rotary import entries as algebra
from zenith_mlir.match.rotary.entries import Entries

FEATURES = None
Dim = tuple[Axis, ...] | None
View = tuple[Dim, ...]

_MAX_OPS = 400
_MAX_COLUMNS = 1 << 14
_MAX_UNITS = 8


class Unreadable(Exception):
    """The value is no map along features that this reader can follow."""


@dataclass(frozen=True)
class Piece:
    """A value that was read: what its dimensions run over, and its entries."""

    value: ir.Value
    view: View
    entries: Entries


Read = Callable[[ir.Value, View], Entries]


class Reader:
    def __init__(self, result: ir.Value) -> None:
        self.result = result
        self.space = AxisSpace()
        self.pieces: dict[ir.Value, Piece] = {}
        self.roots: list[ir.Value] = []
        self.ops: set[ir.Operation] = set()
        self._sums: dict[ir.Value, Piece] = {}
        self._starts: list[int] = []
        self._next = algebra.ONE + 1
        op = defining_op(result)
        self._block = None if op is None else op.block
        self.view: View = (*self.space.fresh_view(shape(result)[:-1]), FEATURES)
        self.entries = self.sum(result, self.view)

    def root_of(self, column: int) -> int:
        """The number of the root that `column` is a feature of; -1 for ONE."""
        return int(np.searchsorted(self._starts, column, side="right")) - 1

    def sum(self, value: ir.Value, view: View) -> Entries:
        """A sum of products."""
        if value in self.pieces:
            return self.piece(value, view)
        if value not in self._sums:
            op = self._enter(value)
            combine = _SUMS.get(op.name) if op is not None else None
            entries = None if op is None or combine is None else combine(self, op, view, self.sum)
            if entries is None:
                return self.piece(value, view)
            self._sums[value] = Piece(value, view, entries)
        return self._same(self._sums[value], view)

    def piece(self, value: ir.Value, view: View) -> Entries:
        """Elements of a root, moved."""
        if value not in self.pieces:
            op = self._enter(value)
            move = _MOVES.get(op.name) if op is not None else None
            entries = None if op is None or move is None else move(self, op, view, self.piece)
            if entries is None or len(entries) > 1:
                entries = self._root(value, view)
            self.pieces[value] = Piece(value, view, entries)
        return self._same(self.pieces[value], view)

    def same_axes(self, one: View, other: View) -> bool:
        return self.resolved(one) == self.resolved(other)

    def resolved(self, view: View) -> View:
        return tuple(dim if dim is FEATURES else self.space.resolve(dim) for dim in view)

    def _same(self, piece: Piece, view: View) -> Entries:
        if not self.same_axes(piece.view, view):
            raise Unreadable
        return piece.entries

    def _enter(self, value: ir.Value) -> ir.Operation | None:
        """The operation to read `value` through, if it stands beside the result."""
        op = defining_op(value)
        if op is None or op.block != self._block or not all(has_static_shape(v) for v in (*op.operands, *op.results)):
            return None
        self.ops.add(op)
        if len(self.ops) > _MAX_OPS:
            raise Unreadable
        return op

    def _root(self, value: ir.Value, view: View) -> Entries:
        if not has_static_shape(value):
            raise Unreadable
        dims = _extents(value, view)
        self._starts.append(self._next)
        self.roots.append(value)
        out = algebra.columns(self._next, dims)
        self._next += out.size
        if self._next > _MAX_COLUMNS:
            raise Unreadable
        return out

    def operand_view(self, op: ir.Operation, view: View) -> View | None:
        """The view of the operand of a shape operation; None if one of its dimensions mixes features and others."""
        if len(view) == 0:
            return ()
        sizes = shape(op.results[0])
        plain = tuple(
            ((self.space.new(size),) if size != 1 else ()) if dim is FEATURES else dim
            for dim, size in zip(view, sizes, strict=True)
        )
        features = [axis for dim, named in zip(view, plain, strict=True) if dim is FEATURES for axis in named]
        found = operand_view(self.space, op, plain)
        if found is None:
            return None
        own = set(self.space.resolve(features))
        out: list[Dim] = []
        for dim in self.space.resolve_view(found):
            inside = [axis in own for axis in dim]
            if any(inside) and not all(inside):
                return None
            out.append(FEATURES if inside and all(inside) else dim)
        return tuple(out)


def _extents(value: ir.Value, view: View) -> list[int]:
    """The dimensions of the entries of `value`: one where it runs over other axes. Complex numbers are two features."""
    dims = [size if dim is FEATURES else 1 for dim, size in zip(view, shape(value), strict=True)]
    return [*dims, 2] if isinstance(element_type(value), ir.ComplexType) else dims


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
    return None if found is None else found.reshape(len(found), *_extents(op.results[0], view))


def _broadcast(reader: Reader, op: ir.Operation, view: View, read: Read) -> Entries | None:
    found = _move(reader, op, view, read)
    if found is None:
        return None
    dims = _extents(op.results[0], view)
    placed = [1] * len(view) + dims[len(view) :]
    for i, dim in enumerate(int_list(op, "broadcast_dimensions")):
        placed[dim] = found.shape[1 + i]
    return np.broadcast_to(found.reshape(len(found), *placed), (len(found), *dims))


def _convert(reader: Reader, op: ir.Operation, view: View, read: Read) -> Entries | None:
    return read(op.operands[0], view) if is_float_convert(op) else None


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
    return read(op.operands[0], view)[_along(view, ranges)]


def _slice_of_units(op: ir.Operation, view: View, ranges: list[slice], read: Read) -> Entries | None:
    inner: list[Dim] = []
    for dim, before, after in zip(view, shape(op.operands[0]), shape(op.results[0]), strict=True):
        cut = dim is not FEATURES and before != after
        if cut and (after != 1 or before > _MAX_UNITS):
            return None
        inner.append(FEATURES if cut else dim)
    return read(op.operands[0], tuple(inner))[_along(tuple(inner), ranges)]


def _along(view: View, ranges: Sequence[slice]) -> tuple[slice, ...]:
    """An index into entries that has effect along features only."""
    return (slice(None), *(r if dim is FEATURES else slice(None) for dim, r in zip(view, ranges, strict=True)))


def _reverse(reader: Reader, op: ir.Operation, view: View, read: Read) -> Entries | None:
    turned = int_list(op, "dimensions")
    if any(view[dim] is not FEATURES for dim in turned):
        return None
    found = read(op.operands[0], view)
    return found[_along(view, [slice(None, None, -1 if i in turned else 1) for i in range(len(view))])]


def _concatenate(reader: Reader, op: ir.Operation, view: View, read: Read) -> Entries | None:
    dim = ir.IntegerAttr(op.attributes["dimension"]).value
    if view[dim] is not FEATURES:
        return None
    return algebra.joined(_read_all(op, view, read), dim)


def _read_all(op: ir.Operation, view: View, read: Read) -> list[Entries]:
    """The entries of all operands. What is only sliced is read last: by then it is known where slices of it end."""
    found = {i: read(op.operands[i], view) for i in sorted(range(len(op.operands)), key=lambda i: _is_cut(op, i))}
    return [found[i] for i in range(len(found))]


def _is_cut(op: ir.Operation, index: int) -> bool:
    inner = peeled(op.operands[index])
    return inner is not None and inner.name == "stablehlo.slice"


def _pad(reader: Reader, op: ir.Operation, view: View, read: Read) -> Entries | None:
    if splat(op.operands[1]) != 0:
        return None
    low, high, inside = (int_list(op, name) for name in ("edge_padding_low", "edge_padding_high", "interior_padding"))
    idle = (dim is FEATURES or (lo, hi, mid) == (0, 0, 0) for dim, lo, hi, mid in zip(view, low, high, inside))
    if not all(idle) or min(*low, *high) < 0:
        return None
    found = read(op.operands[0], view)
    out = np.zeros((len(found), *_extents(op.results[0], view)), algebra.TERM)
    places = [slice(lo, size - hi, 1 + mid) for lo, hi, mid, size in zip(low, high, inside, shape(op.results[0]))]
    out[_along(view, places)] = found
    return out


def _scatter(reader: Reader, op: ir.Operation, view: View, read: Read) -> Entries | None:
    """x.at[..., indices].set(update) with constant indices."""
    place = _overwritten(op)
    if place is None or view[place] is not FEATURES:
        return None
    indices = evaluate(op.operands[1])
    if indices is None or indices.min() < 0 or indices.max() >= shape(op.operands[0])[place]:
        return None
    before, update = read(op.operands[0], view), read(op.operands[2], view)
    terms = max(len(before), len(update))
    out = algebra.padded(before, terms)
    out[(slice(None),) * (1 + place) + (indices.ravel(),)] = algebra.padded(update, terms)
    return out


def _overwritten(op: ir.Operation) -> int | None:
    """The dimension along which a scatter replaces elements at single indices, all others whole; None if it does more."""
    from jaxlib.mlir.dialects import stablehlo

    numbers = stablehlo.ScatterDimensionNumbers(op.attributes["scatter_dimension_numbers"])
    body = list(op.regions[0].blocks[0].operations)
    updates = shape(op.operands[2]) if len(op.operands) == 3 else ()
    places = list(numbers.inserted_window_dims)
    if len(places) != 1 or list(numbers.scattered_dims_to_operand_dims) != places or len(shape(op.operands[1])) != 2:
        return None
    kept = [i for i in range(len(updates)) if i != places[0]]
    whole = [updates[i] for i in kept] == [n for i, n in enumerate(shape(op.operands[0])) if i != places[0]]
    replaces = len(body) == 1 and body[0].operation.operands[0] == op.regions[0].blocks[0].arguments[1]
    ordered = list(numbers.update_window_dims) == kept and numbers.index_vector_dim == 1
    return places[0] if whole and replaces and ordered else None


def _constant(reader: Reader, op: ir.Operation, view: View, read: Read) -> Entries | None:
    signs = _signs(op)
    if signs is None:
        return None
    kept = tuple(slice(None) if dim is FEATURES else slice(0, 1) for dim in view)
    narrow = signs[kept]
    return algebra.numbers(narrow) if (signs == narrow).all() else None


def _signs(op: ir.Operation) -> NDArray[np.float64] | None:
    """A constant that holds nothing but -1, 0 and 1: it permutes, negates and drops."""
    value = op.results[0]
    number = splat(value)
    if number is not None:
        return np.broadcast_to(np.float64(number), shape(value)) if number in (-1, 0, 1) else None
    if np.prod(shape(value)) > _MAX_COLUMNS:
        return None
    values = evaluate(value)
    return values.astype(np.float64) if values is not None and np.isin(values, (-1, 0, 1)).all() else None


def _is_signs(value: ir.Value) -> bool:
    op = defining_op(value)
    while op is not None and op.name in ("stablehlo.broadcast_in_dim", "stablehlo.reshape", "stablehlo.convert"):
        op = defining_op(op.operands[0])
    return op is not None and op.name == "stablehlo.constant" and _signs(op) is not None


def _signed(reader: Reader, op: ir.Operation, view: View, read: Read) -> Entries | None:
    """A product with signs only moves."""
    left, right = op.operands
    if _is_signs(left):
        left, right = right, left
    return algebra.product(read(left, view), reader.piece(right, view)) if _is_signs(right) else None


def _product(reader: Reader, op: ir.Operation, view: View, read: Read) -> Entries | None:
    moved = _signed(reader, op, view, read)
    if moved is not None:
        return moved
    left, right = (reader.piece(operand, view) for operand in op.operands)
    if isinstance(element_type(op.results[0]), ir.ComplexType):
        return _complex_product(left, right)
    return algebra.product(left, right)


def _complex_product(left: Entries, right: Entries) -> Entries | None:
    parts = [[algebra.product(left[..., i], right[..., j]) for j in (0, 1)] for i in (0, 1)]
    (rr, ri), (ir_, ii) = parts
    if rr is None or ri is None or ir_ is None or ii is None:
        return None
    return algebra.stacked([algebra.total([rr, algebra.negated(ii)]), algebra.total([ri, ir_])])


def _add(reader: Reader, op: ir.Operation, view: View, read: Read) -> Entries | None:
    return algebra.total(_read_all(op, view, read))


def _subtract(reader: Reader, op: ir.Operation, view: View, read: Read) -> Entries | None:
    left, right = _read_all(op, view, read)
    return algebra.total([left, algebra.negated(right)])


def _complex(reader: Reader, op: ir.Operation, view: View, read: Read) -> Entries | None:
    return algebra.stacked(_read_all(op, view, read))


def _part(index: int) -> Callable[[Reader, ir.Operation, View, Read], Entries | None]:
    return lambda reader, op, view, read: read(op.operands[0], view)[..., index]


def _permuted(reader: Reader, op: ir.Operation, view: View, read: Read) -> Entries | None:
    """A product with a constant matrix that has one sign a column."""
    dims = DotDims.of(op)
    side = next((i for i in (0, 1) if len(shape(op.operands[i])) == 2 and _is_signs(op.operands[i])), None)
    if side is None or dims.lhs_batch or len(dims.lhs_contracting) != 1:
        return None
    mine, theirs = (dims.lhs_contracting[0], dims.rhs_contracting[0])[:: 1 if side == 0 else -1]
    place = 0 if side == 0 else len(view) - 1
    if view[place] is not FEATURES:
        return None
    matrix_op = defining_op(op.operands[side])
    matrix = None if matrix_op is None else _signs(matrix_op)
    if matrix is None:
        return None
    matrix = matrix if mine == 0 else matrix.T
    if (np.count_nonzero(matrix, axis=0) != 1).any():
        return None
    inner = [dim for i, dim in enumerate(view) if i != place]
    inner.insert(theirs, FEATURES)
    moved = read(op.operands[1 - side], tuple(inner)).take(np.abs(matrix).argmax(axis=0), axis=1 + theirs)
    out = np.moveaxis(moved, 1 + theirs, 1 + place).copy()
    line = [1] * out.ndim
    line[1 + place] = -1
    out["factor"] *= matrix.sum(axis=0).reshape(line)
    return out


Combine = Callable[[Reader, ir.Operation, View, Read], Entries | None]

_MOVES: dict[str, Combine] = {
    "stablehlo.transpose": _transpose,
    "stablehlo.reshape": _reshape,
    "stablehlo.broadcast_in_dim": _broadcast,
    "stablehlo.convert": _convert,
    "stablehlo.negate": _negate,
    "stablehlo.slice": _slice,
    "stablehlo.reverse": _reverse,
    "stablehlo.concatenate": _concatenate,
    "stablehlo.pad": _pad,
    "stablehlo.scatter": _scatter,
    "stablehlo.constant": _constant,
    "stablehlo.multiply": _signed,
    "stablehlo.dot_general": _permuted,
    "stablehlo.complex": _complex,
    "stablehlo.real": _part(0),
    "stablehlo.imag": _part(1),
}
_SUMS: dict[str, Combine] = _MOVES | {
    "stablehlo.add": _add,
    "stablehlo.subtract": _subtract,
    "stablehlo.multiply": _product,
}


def peeled(value: ir.Value) -> ir.Operation | None:
    """The operation that computes `value`, seen through those that lay it out, pad, convert or negate it."""
    op = defining_op(value)
    while op is not None and op.name in _WRAPPING:
        op = defining_op(op.operands[0])
    return op


_WRAPPING = frozenset(
    f"stablehlo.{name}" for name in ("transpose", "reshape", "broadcast_in_dim", "convert", "negate", "pad")
)
