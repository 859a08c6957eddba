"""What indexes, one-hot matrices and masks around them mean in the polynomials of a cross-entropy."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING

from jaxlib.mlir import ir

from zenith_mlir.canonical.splats import comparison_direction
from zenith_mlir.ir.dots import DotDims
from zenith_mlir.ir.facts import SHAPE_OPS, defined_by, defining_op, element_type, is_float, shape, splat
from zenith_mlir.match.affine import affine, index_along
from zenith_mlir.match.algebra.polynomial import ONE, Polynomial
from zenith_mlir.match.algebra.reader import Reader
from zenith_mlir.match.axes import View, axes_of, dot_operand_views, operand_view
from zenith_mlir.match.cross_entropy.atoms import Indicator
from zenith_mlir.match.cross_entropy.indexing import gather_lookup, is_identity, scatter_lookup
from zenith_mlir.match.cross_entropy.labels import Label, constant_truth, is_in_range, label_of
from zenith_mlir.match.cross_entropy.sampling import Placed

if TYPE_CHECKING:
    from zenith_mlir.match.cross_entropy.reader import CrossEntropyReader


def compare(reader: CrossEntropyReader, op: ir.Operation, view: View) -> Polynomial | None:
    direction = comparison_direction(op)
    if is_float(element_type(op.operands[0])):
        return _compare_with_zero(reader, op, view, direction)
    if direction not in ("EQ", "NE"):
        return None
    indicator = _one_hot(reader, op, view)
    if indicator is None:
        return None
    return indicator if direction == "EQ" else Polynomial.constant(1.0) - indicator


def _compare_with_zero(reader: CrossEntropyReader, op: ir.Operation, view: View, direction: str) -> Polynomial | None:
    if splat(op.operands[1]) != 0:
        return None
    operand = reader.resolved(reader.read(op.operands[0], view))
    if reader.is_positive(operand):
        return Polynomial.constant(1.0) if direction in ("GE", "GT", "NE") else None
    ((monomial, coefficient),) = operand.terms.items() if len(operand.terms) == 1 else ((ONE, 0.0),)
    if coefficient <= 0 or [type(atom) for atom, _ in monomial] != [Indicator]:
        return None
    one = Polynomial({monomial: 1.0})
    return {"EQ": Polynomial.constant(1.0) - one, "LE": Polynomial.constant(1.0) - one}.get(direction, one)


def _one_hot(reader: CrossEntropyReader, op: ir.Operation, view: View) -> Polynomial | None:
    """[label = column], where one side counts the columns and the other has none."""
    for labels, columns in (tuple(op.operands), tuple(reversed(op.operands))):
        if affine(reader.space, columns, view) != index_along(reader.space, (reader.column,)):
            continue
        indicator = _indicator(reader, Label(Placed(labels, view), "zero"))
        if reader.column not in axes_of(indicator.view):
            return Polynomial.of(indicator)
    return None


def _moved_from(reader: CrossEntropyReader, value: ir.Value, view: View) -> Placed:
    """Where the same elements were before they were repeated, reshaped or transposed."""
    while (op := defining_op(value)) is not None and op.name in SHAPE_OPS and op.name != "stablehlo.convert":
        inner = operand_view(reader.space, op, view)
        if inner is None:
            break
        value, view = op.operands[0], inner
    return Placed(value, view)


def select(reader: CrossEntropyReader, op: ir.Operation, view: View) -> Polynomial | None:
    predicate, on_true, on_false = op.operands
    fill = splat(on_false)
    if fill is not None and math.isnan(fill):
        return _filled(reader, op, view)
    finite = defined_by(predicate, "stablehlo.is_finite")
    if finite is not None and fill == 0 and reader.resolved(reader.read(finite.operands[0], view)) == reader.maximum:
        return reader.read(on_true, view)
    return Reader.select(reader, op, view)


def _filled(reader: CrossEntropyReader, op: ir.Operation, view: View) -> Polynomial | None:
    """What is read at an index that is in range, and NaN elsewhere."""
    predicate, value, _ = op.operands
    inside = Placed(predicate, view if shape(predicate) else ())
    if constant_truth(reader.space, inside):
        return reader.read(value, view)
    source = _moved_from(reader, value, view)
    gather = defined_by(source.value, "stablehlo.gather")
    return None if gather is None else _gathered(reader, gather, source.view, inside)


def gather(reader: CrossEntropyReader, op: ir.Operation, view: View) -> Polynomial | None:
    return _gathered(reader, op, view, None)


def _gathered(reader: CrossEntropyReader, op: ir.Operation, view: View, inside: Placed | None) -> Polynomial | None:
    """What is read where `inside` holds; without that the program promises that indices are in range."""
    lookup = gather_lookup(reader.space, op, view, reader.column)
    if lookup is None:
        return None
    if lookup.index is None:
        return reader.read(op.operands[0], lookup.view)
    label = label_of(reader.space, lookup.index, inside, lookup.at, reader.space.size(reader.column))
    if label is None or (inside is not None and label.outside != "fill"):
        return None
    indicator = _indicator(reader, replace(label, outside="fill"))
    if lookup.rows_of_table:
        return Polynomial.of(indicator) if is_identity(reader.space, op.operands[0]) else None
    return reader.picked(indicator, reader.read(op.operands[0], lookup.view))


def dot(reader: CrossEntropyReader, op: ir.Operation, view: View) -> Polynomial | None:
    """A product elementwise, or summed along the columns."""
    dims = DotDims.of(op)
    lhs, rhs = (list(found) for found in dot_operand_views(reader.space, op, view))
    for a, b in zip(dims.lhs_contracting, dims.rhs_contracting, strict=True):
        if shape(op.operands[0])[a] != reader.space.size(reader.column) or reader.column in axes_of((*lhs, *rhs)):
            return None
        lhs[a] = rhs[b] = (reader.column,)
    product = reader.read(op.operands[0], tuple(lhs)) * reader.read(op.operands[1], tuple(rhs))
    return reader.total(product, (reader.column,)) if dims.lhs_contracting else product


def _indicator(reader: CrossEntropyReader, label: Label) -> Indicator:
    source = _moved_from(reader, label.labels.value, label.labels.view)
    return Indicator(reader.space.resolve_view(source.view), source.value, reader.column, label.outside)


def scatter(reader: CrossEntropyReader, op: ir.Operation, view: View) -> Polynomial | None:
    if len(op.operands) != 3 or not _adds(op):
        return None
    lookup = scatter_lookup(reader.space, op, view, reader.column)
    if lookup is None:
        return None
    updates, before = reader.read(op.operands[2], lookup.view), reader.read(op.operands[0], view)
    if lookup.index is None:
        return before + updates
    label = label_of(reader.space, lookup.index, None, lookup.at, reader.space.size(reader.column))
    if label is None:
        return None
    if is_in_range(label.labels.value, reader.space.size(reader.column)):
        label = replace(label, outside="fill")
    return before + Polynomial.of(_indicator(reader, label)) * updates


def _adds(scatter: ir.Operation) -> bool:
    """Whether a scatter adds its updates to what is there."""
    block = scatter.regions[0].blocks[0]
    body = [inner.operation for inner in block.operations]
    if [op.name for op in body] != ["stablehlo.add", "stablehlo.return"]:
        return False
    return list(body[0].operands) == list(block.arguments) and body[1].operands[0] == body[0].results[0]
