"""Operations that add and multiply what features are made of, and complex numbers, which are pairs of features."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import numpy as np
from jaxlib.mlir import ir

from zenith_mlir.ir.facts import defined_by, defining_op, element_type, int_list, producer, shape, splat
from zenith_mlir.match.rotary import entries as algebra
from zenith_mlir.match.rotary.entries import Entries
from zenith_mlir.match.rotary.moves import signed
from zenith_mlir.match.rotary.views import FEATURES, Combine, Dim, Read, View

if TYPE_CHECKING:
    from zenith_mlir.match.rotary.reader import Reader

_MAX_SUMMED = 8


def _product(reader: Reader, op: ir.Operation, view: View, read: Read) -> Entries | None:
    moved = _imaginary(reader, op, view, read)
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
    return algebra.total(reader.read_all(op, view, read))


def _subtract(reader: Reader, op: ir.Operation, view: View, read: Read) -> Entries | None:
    left, right = reader.read_all(op, view, read)
    return algebra.total([left, algebra.negated(right)])


def _complex(reader: Reader, op: ir.Operation, view: View, read: Read) -> Entries | None:
    return algebra.stacked(reader.read_all(op, view, read))


def _part(index: int) -> Combine:
    return lambda reader, op, view, read: read(op.operands[0], view)[..., index]


def _imaginary(reader: Reader, op: ir.Operation, view: View, read: Read) -> Entries | None:
    """i x, of a complex x: its parts change places."""
    if not isinstance(element_type(op.results[0]), ir.ComplexType):
        return signed(reader, op, view, read)
    left, right = op.operands
    unit, other = (left, right) if _is_unit(left) else (right, left)
    if not _is_unit(unit):
        return None
    reader.ops.add(producer(unit))
    found = read(other, view)
    return algebra.stacked([algebra.negated(found[..., 1]), found[..., 0]])


def _is_unit(value: ir.Value) -> bool:
    """Whether `value` is i, spread out. The bindings cannot read complex attributes: the text says it."""
    broadcast = defined_by(value, "stablehlo.broadcast_in_dim")
    op = defined_by(value if broadcast is None else broadcast.operands[0], "stablehlo.constant")
    return op is not None and shape(op.results[0]) == () and _UNIT.search(str(op)) is not None


_UNIT = re.compile(r"dense<\(0\.0+(e\+00)?, ?1\.0+(e\+00)?\)>")


def _add_apart(reader: Reader, op: ir.Operation, view: View, read: Read) -> Entries | None:
    """A sum of values that are zero where the other is not is no sum, but one value in parts."""
    if not all(_is_sparse(operand) for operand in op.operands):
        return None
    return algebra.compact(algebra.total(reader.read_all(op, view, read)))


def _is_sparse(value: ir.Value) -> bool:
    op = defining_op(value)
    if op is None or isinstance(element_type(value), ir.ComplexType):
        return op is not None
    return op.name in ("stablehlo.pad", "stablehlo.scatter")


def _reduce(reader: Reader, op: ir.Operation, view: View, read: Read) -> Entries | None:
    """A sum along a few features."""
    body = [child.operation.name for child in op.regions[0].blocks[0].operations]
    dims, sizes = int_list(op, "dimensions"), shape(op.operands[0])
    if body != ["stablehlo.add", "stablehlo.return"] or len(op.operands) != 2 or splat(op.operands[1]) != 0:
        return None
    if len(dims) != 1 or sizes[dims[0]] > _MAX_SUMMED:
        return None
    inner: list[Dim] = list(view)
    inner.insert(dims[0], FEATURES)
    found = read(op.operands[0], tuple(inner))
    return algebra.total(list(np.moveaxis(found, 1 + dims[0], 0)))


PARTS: dict[str, Combine] = {
    "stablehlo.add": _add_apart,
    "stablehlo.multiply": _imaginary,
    "stablehlo.complex": _complex,
    "stablehlo.real": _part(0),
    "stablehlo.imag": _part(1),
}
SUMS: dict[str, Combine] = {
    "stablehlo.add": _add,
    "stablehlo.subtract": _subtract,
    "stablehlo.multiply": _product,
    "stablehlo.reduce": _reduce,
}
