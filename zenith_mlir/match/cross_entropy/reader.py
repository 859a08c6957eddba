"""Reads values as polynomials in what a cross-entropy is made of (`atoms.py`).

exp of a x + b m + c log Σ exp(x - m), with whole numbers, is a product of powers; log takes it back. What a gather
reads at the labels, and what a one-hot matrix leaves of a row, is Σ_j [j = l] x_j; and as [j = l] x_j is [j = l] x_l,
all that varies along the columns beside [j = l] is a factor of a row. So there is one way to write each.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import ClassVar

from jaxlib.mlir import ir

from zenith_mlir.ir.facts import (
    int_list,
    reduction,
    shape,
    splat,
)
from zenith_mlir.match.algebra.polynomial import Atom, Monomial, Polynomial, Tensor, Total
from zenith_mlir.match.algebra.reader import HANDLERS, Handler, Reader
from zenith_mlir.match.axes import Axis, AxisSpace, View
from zenith_mlir.match.cross_entropy import at_labels
from zenith_mlir.match.cross_entropy.atoms import Exponential, Indicator, LogSum, Maximum


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


CrossEntropyReader.handlers = {
    **HANDLERS,
    "stablehlo.exponential": CrossEntropyReader.exp,
    "stablehlo.log": CrossEntropyReader.log,
    "stablehlo.abs": CrossEntropyReader.abs,
    "chlo.square": CrossEntropyReader.square,
    "stablehlo.reduce": CrossEntropyReader.reduce,
    "stablehlo.compare": at_labels.compare,
    "stablehlo.select": at_labels.select,
    "stablehlo.gather": at_labels.gather,
    "stablehlo.dot_general": at_labels.dot,
    "stablehlo.scatter": at_labels.scatter,
}
