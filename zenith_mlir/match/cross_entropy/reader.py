"""Reads values as polynomials in what a cross-entropy is made of (`atoms.py`).

exp of a x + b m + c log Σ exp(x - m), with whole numbers, is a product of powers; log takes it back. What a gather
reads at the labels, and what a one-hot matrix leaves of a row, is Σ_j [j = l] x_j; and as [j = l] x_j is [j = l] x_l,
all that varies along the columns beside [j = l] is a factor of a row. So there is one way to write each.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import ClassVar

from jaxlib.mlir import ir

from zenith_mlir.canonical.splats import comparison_direction
from zenith_mlir.ir.dots import DotDims
from zenith_mlir.ir.facts import (
    SHAPE_OPS,
    defined_by,
    defining_op,
    element_type,
    int_list,
    is_float,
    reduction,
    shape,
    splat,
)
from zenith_mlir.match.affine import affine, index_along
from zenith_mlir.match.algebra.polynomial import ONE, Atom, Monomial, Polynomial, Tensor, Total
from zenith_mlir.match.algebra.reader import HANDLERS, Handler, Reader
from zenith_mlir.match.axes import Axis, AxisSpace, View, axes_of, dot_operand_views, operand_view
from zenith_mlir.match.cross_entropy.atoms import Exponential, Indicator, LogSum, Maximum
from zenith_mlir.match.cross_entropy.indexing import gather_lookup, is_identity, scatter_lookup
from zenith_mlir.match.cross_entropy.labels import Label, Placed, constant_truth, is_in_range, label_of


class CrossEntropyReader(Reader):
    """`logits` has dimensions that run over `view`; a row of it runs over `column`. Unless it is `shifted`, no maximum
    is subtracted before the exponential: m is 0.
    """

    handlers: ClassVar[Mapping[str, Handler]]

    def __init__(self, space: AxisSpace, logits: ir.Value, view: View, column: Axis, shifted: bool = True) -> None:
        super().__init__(space, (column,))
        self.logits, self.view, self.column, self._shifted = logits, view, column, shifted
        self.dim = view.index((column,))
        self.rows: View = view[: self.dim] + view[self.dim + 1 :]
        extent = shape(logits)
        self.row_dims = extent[: self.dim] + extent[self.dim + 1 :]

    # ---- Atoms ----

    @property
    def x(self) -> Polynomial:
        return self.resolved(Polynomial.of(Tensor(self.logits, self.view)))

    @property
    def exponential(self) -> Polynomial:
        return self.resolved(Polynomial.of(Exponential(self.view)))

    @property
    def maximum(self) -> Polynomial:
        return self.resolved(Polynomial.of(Maximum(self.rows))) if self._shifted else Polynomial({})

    @property
    def log_sum(self) -> Polynomial:
        return self.resolved(Polynomial.of(LogSum(self.rows)))

    @property
    def sum(self) -> Polynomial:
        return self.total(self.exponential, (self.column,))

    def picked(self, indicator: Indicator, polynomial: Polynomial) -> Polynomial:
        """Σ_j [j = l] of it."""
        return self.total(Polynomial.of(indicator) * polynomial, (self.column,))

    # ---- Reading ----

    def known(self, value: ir.Value, view: View) -> Polynomial | None:
        return Polynomial.of(Tensor(value, view)) if value == self.logits else None

    def _read(self, value: ir.Value, view: View) -> Polynomial:
        return self._at_labels(super()._read(value, view))

    def total(self, polynomial: Polynomial, axes: Iterable[Axis]) -> Polynomial:
        """The sum along `axes`; Σ_j [j = l] is 1 where a label without a column has a loss of NaN."""
        total = super().total(self._at_labels(polynomial), axes)
        result = Polynomial({})
        for monomial, coefficient in total.terms.items():
            result += Polynomial({frozenset(f for f in monomial if not _counts_one(f[0])): coefficient})
        return result

    def _at_labels(self, polynomial: Polynomial) -> Polynomial:
        if not any(isinstance(atom, Indicator) for monomial in polynomial.terms for atom, _ in monomial):
            return polynomial
        result = Polynomial({})
        for monomial, coefficient in self.resolved(polynomial).terms.items():
            result += Polynomial({self._picked_monomial(monomial): coefficient})
        return result

    def _picked_monomial(self, monomial: Monomial) -> Monomial:
        indicators = [atom for atom, _ in monomial if isinstance(atom, Indicator)]
        if len(indicators) != 1:
            return monomial
        (indicator,) = indicators
        column = frozenset(self.space.resolve((self.column,)))
        exponents: dict[Atom, int] = {}
        for atom, exponent in monomial:
            varies = atom != indicator and self.column in atom.axes(self.space)
            factor = Total(frozenset({(indicator, 1), (atom, 1)}), column) if varies else atom
            exponents[factor] = exponents.get(factor, 0) + exponent
        return frozenset((atom, exponent) for atom, exponent in exponents.items() if exponent)

    def is_positive(self, polynomial: Polynomial) -> bool:
        """Whether it is a product of exponentials and their sums."""
        if len(polynomial.terms) != 1:
            return False
        ((monomial, coefficient),) = polynomial.terms.items()
        return coefficient > 0 and all(self._logarithm(atom) is not None for atom, _ in monomial)

    def _logarithm(self, atom: Atom) -> Polynomial | None:
        """The logarithm of an atom that is positive."""
        alone = Polynomial.of(atom)
        if alone == self.exponential:
            return self.x - self.maximum
        if alone == self.sum:
            return self.log_sum
        indicator = _indicator_in(atom)
        if indicator is not None and alone == self.picked(indicator, self.exponential):
            return self.picked(indicator, self.x) - self.maximum
        return None

    def _exponential(self, atom: Atom) -> Polynomial | None:
        """exp of an atom; that of the maximum comes with each of the logits."""
        alone = Polynomial.of(atom)
        if alone == self.x:
            return self.exponential
        if alone == self.log_sum:
            return self.sum
        indicator = _indicator_in(atom)
        if indicator is not None and alone == self.picked(indicator, self.x):
            return self.picked(indicator, self.exponential)
        return None

    # ---- Handlers ----

    def exp(self, op: ir.Operation, view: View) -> Polynomial | None:
        exponent = self.resolved(self.read(op.operands[0], view))
        result, logits, maxima = Polynomial.constant(1.0), 0, 0
        for monomial, coefficient in exponent.terms.items():
            if len(monomial) != 1 or not coefficient.is_integer() or abs(coefficient) > 3:
                return None
            ((atom, power),) = monomial
            times = int(coefficient)
            if power != 1:
                return None
            if Polynomial.of(atom) == self.maximum:
                maxima += times
                continue
            factor = self._exponential(atom)
            if factor is None:
                return None
            logits += 0 if isinstance(atom, LogSum) else times
            result *= _power(factor, times)
        return result if maxima == (-logits if self._shifted else 0) else None

    def log(self, op: ir.Operation, view: View) -> Polynomial | None:
        operand = self.resolved(self.read(op.operands[0], view))
        if not self.is_positive(operand):
            return None
        ((monomial, coefficient),) = operand.terms.items()
        result = Polynomial.constant(math.log(coefficient))
        for atom, power in monomial:
            logarithm = self._logarithm(atom)
            assert logarithm is not None
            result += logarithm.scaled(float(power))
        return result

    def abs(self, op: ir.Operation, view: View) -> Polynomial | None:
        operand = self.resolved(self.read(op.operands[0], view))
        return operand if self.is_positive(operand) else None

    def square(self, op: ir.Operation, view: View) -> Polynomial | None:
        operand = self.read(op.operands[0], view)
        return operand * operand

    def reduce(self, op: ir.Operation, view: View) -> Polynomial | None:
        if reduction(op) != "stablehlo.maximum" or splat(op.operands[1]) != -math.inf:
            return super().reduce(op, view)
        operand, dims = op.operands[0], int_list(op, "dimensions")
        if len(dims) != 1 or shape(operand)[dims[0]] != self.space.size(self.column):
            return None
        inner = (*view[: dims[0]], (self.column,), *view[dims[0] :])
        return self.maximum if self.resolved(self.read(operand, inner)) == self.x else None

    def compare(self, op: ir.Operation, view: View) -> Polynomial | None:
        direction = comparison_direction(op)
        if is_float(element_type(op.operands[0])):
            return self._compare_with_zero(op, view, direction)
        if direction not in ("EQ", "NE"):
            return None
        indicator = self._one_hot(op, view)
        if indicator is None:
            return None
        return indicator if direction == "EQ" else Polynomial.constant(1.0) - indicator

    def _compare_with_zero(self, op: ir.Operation, view: View, direction: str) -> Polynomial | None:
        if splat(op.operands[1]) != 0:
            return None
        operand = self.resolved(self.read(op.operands[0], view))
        if self.is_positive(operand):
            return Polynomial.constant(1.0) if direction in ("GE", "GT", "NE") else None
        ((monomial, coefficient),) = operand.terms.items() if len(operand.terms) == 1 else ((ONE, 0.0),)
        if coefficient <= 0 or [type(atom) for atom, _ in monomial] != [Indicator]:
            return None
        one = Polynomial({monomial: 1.0})
        return {"EQ": Polynomial.constant(1.0) - one, "LE": Polynomial.constant(1.0) - one}.get(direction, one)

    def _one_hot(self, op: ir.Operation, view: View) -> Polynomial | None:
        """[label = column], where one side counts the columns and the other has none."""
        for labels, columns in (tuple(op.operands), tuple(reversed(op.operands))):
            if affine(self.space, columns, view) != index_along(self.space, (self.column,)):
                continue
            indicator = self._indicator(Label(Placed(labels, view), "zero"))
            if self.column not in axes_of(indicator.view):
                return Polynomial.of(indicator)
        return None

    def _moved_from(self, value: ir.Value, view: View) -> Placed:
        """Where the same elements were before they were repeated, reshaped or transposed."""
        while (op := defining_op(value)) is not None and op.name in SHAPE_OPS and op.name != "stablehlo.convert":
            inner = operand_view(self.space, op, view)
            if inner is None:
                break
            value, view = op.operands[0], inner
        return Placed(value, view)

    def select(self, op: ir.Operation, view: View) -> Polynomial | None:
        predicate, on_true, on_false = op.operands
        fill = splat(on_false)
        if fill is not None and math.isnan(fill):
            return self._filled(op, view)
        finite = defined_by(predicate, "stablehlo.is_finite")
        if finite is not None and fill == 0 and self.resolved(self.read(finite.operands[0], view)) == self.maximum:
            return self.read(on_true, view)
        return super().select(op, view)

    def _filled(self, op: ir.Operation, view: View) -> Polynomial | None:
        """What is read at an index that is in range, and NaN elsewhere."""
        predicate, value, _ = op.operands
        inside = Placed(predicate, view if shape(predicate) else ())
        if constant_truth(self.space, inside):
            return self.read(value, view)
        source = self._moved_from(value, view)
        gather = defined_by(source.value, "stablehlo.gather")
        return None if gather is None else self._gathered(gather, source.view, inside)

    def gather(self, op: ir.Operation, view: View) -> Polynomial | None:
        return self._gathered(op, view, None)

    def _gathered(self, op: ir.Operation, view: View, inside: Placed | None) -> Polynomial | None:
        """What is read where `inside` holds; without that the program promises that indices are in range."""
        lookup = gather_lookup(self.space, op, view, self.column)
        if lookup is None:
            return None
        if lookup.index is None:
            return self.read(op.operands[0], lookup.view)
        label = label_of(self.space, lookup.index, inside, lookup.at, self.space.size(self.column))
        if label is None or (inside is not None and label.outside != "fill"):
            return None
        indicator = self._indicator(replace(label, outside="fill"))
        if lookup.rows_of_table:
            return Polynomial.of(indicator) if is_identity(self.space, op.operands[0]) else None
        return self.picked(indicator, self.read(op.operands[0], lookup.view))

    def dot(self, op: ir.Operation, view: View) -> Polynomial | None:
        """A product elementwise, or summed along the columns."""
        dims = DotDims.of(op)
        lhs, rhs = (list(found) for found in dot_operand_views(self.space, op, view))
        for a, b in zip(dims.lhs_contracting, dims.rhs_contracting, strict=True):
            if shape(op.operands[0])[a] != self.space.size(self.column) or self.column in axes_of((*lhs, *rhs)):
                return None
            lhs[a] = rhs[b] = (self.column,)
        product = self.read(op.operands[0], tuple(lhs)) * self.read(op.operands[1], tuple(rhs))
        return self.total(product, (self.column,)) if dims.lhs_contracting else product

    def _indicator(self, label: Label) -> Indicator:
        source = self._moved_from(label.labels.value, label.labels.view)
        return Indicator(self.space.resolve_view(source.view), source.value, self.column, label.outside)

    def scatter(self, op: ir.Operation, view: View) -> Polynomial | None:
        if len(op.operands) != 3 or not _adds(op):
            return None
        lookup = scatter_lookup(self.space, op, view, self.column)
        if lookup is None:
            return None
        updates, before = self.read(op.operands[2], lookup.view), self.read(op.operands[0], view)
        if lookup.index is None:
            return before + updates
        label = label_of(self.space, lookup.index, None, lookup.at, self.space.size(self.column))
        if label is None:
            return None
        if is_in_range(label.labels.value, self.space.size(self.column)):
            label = replace(label, outside="fill")
        return before + Polynomial.of(self._indicator(label)) * updates


def _power(polynomial: Polynomial, exponent: int) -> Polynomial:
    factor = polynomial if exponent > 0 else polynomial.reciprocal()
    return math.prod([factor] * abs(exponent), start=Polynomial.constant(1.0))


def _counts_one(atom: Atom) -> bool:
    if not isinstance(atom, Total) or len(atom.product) != 1:
        return False
    ((inner, _),) = atom.product
    return isinstance(inner, Indicator) and inner.outside == "fill"


def _indicator_in(atom: Atom) -> Indicator | None:
    return next((inner for inner in atom.inner() if isinstance(inner, Indicator)), None)


def _adds(scatter: ir.Operation) -> bool:
    body = [inner.operation.name for inner in scatter.regions[0].blocks[0].operations]
    return body == ["stablehlo.add", "stablehlo.return"]


CrossEntropyReader.handlers = {
    **HANDLERS,
    "stablehlo.exponential": CrossEntropyReader.exp,
    "stablehlo.log": CrossEntropyReader.log,
    "stablehlo.abs": CrossEntropyReader.abs,
    "chlo.square": CrossEntropyReader.square,
    "stablehlo.reduce": CrossEntropyReader.reduce,
    "stablehlo.compare": CrossEntropyReader.compare,
    "stablehlo.select": CrossEntropyReader.select,
    "stablehlo.gather": CrossEntropyReader.gather,
    "stablehlo.dot_general": CrossEntropyReader.dot,
    "stablehlo.scatter": CrossEntropyReader.scatter,
}
