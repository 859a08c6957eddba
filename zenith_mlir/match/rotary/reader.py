"""Reading a value as a map along its features: from the result of a possible rotation up to the values it is made of.

The walk goes from the result to its operands and says of each dimension whether it runs over features or over other
axes, which are followed by name (`match/axes.py`). On the way back each operation moves or combines the entries of its
operands. Below a product only operations that move elements are followed; where they end there is a *root*: the rotated
value or a table. Above products there are sums, too.
"""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass
from math import prod

from jaxlib.mlir import ir

from zenith_mlir.ir.facts import defining_op, has_static_shape, shape
from zenith_mlir.match.axes import AxisSpace, operand_view
from zenith_mlir.match.rotary import entries as algebra
from zenith_mlir.match.rotary.entries import Entries
from zenith_mlir.match.rotary.indexing import INDEXING
from zenith_mlir.match.rotary.moves import MOVES
from zenith_mlir.match.rotary.sums import PARTS, SUMS
from zenith_mlir.match.rotary.views import FEATURES, Dim, Read, View, extents

_MOVES = MOVES | INDEXING | PARTS
_SUMS = _MOVES | SUMS
_MAX_OPS = 400
_MAX_COLUMNS = 1 << 14


class Unreadable(Exception):
    """The value is no map along features that this reader can follow."""


@dataclass(frozen=True)
class Piece:
    """A value that was read: what its dimensions run over, and its entries."""

    value: ir.Value
    view: View
    entries: Entries


class Reader:
    def __init__(self, result: ir.Value, rows: int = 1) -> None:
        """The features of `result` are its last `rows` dimensions."""
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
        self.view: View = (*self.space.fresh_view(shape(result)[:-rows]), *[FEATURES] * rows)
        self.entries = self.sum(result, self.view)

    @property
    def features(self) -> int:
        """How many features the result has."""
        return self.entries.size // len(self.entries)

    def root_of(self, column: int) -> int:
        """The number of the root that `column` is a feature of; -1 for ONE."""
        return bisect_right(self._starts, column) - 1

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

    def read_all(self, op: ir.Operation, view: View, read: Read) -> list[Entries]:
        """The entries of all operands. What is only sliced is read last: by then it is known where slices of it end."""
        order = sorted(range(len(op.operands)), key=lambda i: _is_cut(op.operands[i]))
        found = {i: read(op.operands[i], view) for i in order}
        return [found[i] for i in range(len(found))]

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
        dims = extents(value, view)
        if self._next + prod(dims) > _MAX_COLUMNS:
            raise Unreadable
        self._starts.append(self._next)
        self.roots.append(value)
        out = algebra.columns(self._next, dims)
        self._next += out.size
        return out

    def operand_view(self, op: ir.Operation, view: View) -> View | None:
        """The view of the operand of a shape operation; None if one of its dimensions mixes features and others."""
        if len(view) == 0:
            # All that a scalar can be made of by a shape operation has dimensions of size 1.
            return ((),) * len(shape(op.operands[0]))
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


def _is_cut(value: ir.Value) -> bool:
    inner = peeled(value)
    return inner is not None and inner.name == "stablehlo.slice"


def peeled(value: ir.Value) -> ir.Operation | None:
    """The operation that computes `value`, seen through those that lay it out, pad, convert or negate it."""
    op = defining_op(value)
    while op is not None and op.name in _WRAPPING:
        op = defining_op(op.operands[0])
    return op


_WRAPPING = frozenset(
    f"stablehlo.{name}" for name in ("transpose", "reshape", "broadcast_in_dim", "convert", "negate", "pad")
)
