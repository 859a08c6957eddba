"""From values of the program to polynomials."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any, ClassVar, TypeAlias

from jaxlib.mlir import ir

from zenith_mlir.ir.facts import (
    SHAPE_OPS,
    defining_op,
    element_type,
    float_width,
    int_list,
    keeps_precision,
    reduction,
    shape,
    splat,
)
from zenith_mlir.match.algebra.polynomial import NotPolynomial, Polynomial, Tensor
from zenith_mlir.match.axes import Axis, AxisSpace, View, operand_view

# How far up an expression is read; what lies beyond is an atom.
_MAX_DEPTH = 48
# Gives the polynomial of an operation's result in a view, or None if it is an atom.
Handler: TypeAlias = Callable[[Any, ir.Operation, View], Polynomial | None]


class Reader:
    """Reads values as polynomials. Subclasses know more operations (`handlers`) and more values (`known`).

    `axes` are those of the site, in order. A sum runs over them, by what they are called everywhere: of those that its
    result lacks it takes the first that have the right sizes.
    """

    handlers: ClassVar[Mapping[str, Handler]] = {}

    def __init__(self, space: AxisSpace, axes: Iterable[Axis]) -> None:
        self.space, self.axes = space, tuple(axes)
        self._read_before: dict[tuple[ir.Value, View], Polynomial] = {}
        self._depth = 0

    def read(self, value: ir.Value, view: View) -> Polynomial:
        """The polynomial of `value`, whose dimensions are `view`.

        Raises: NotPolynomial if it has too many terms.
        """
        key = (value, self.space.resolve_view(view))
        if key not in self._read_before:
            self._depth += 1
            self._read_before[key] = self._read(*key)
            self._depth -= 1
        return self._read_before[key]

    def known(self, value: ir.Value, view: View) -> Polynomial | None:
        """What `value` is, where that is not read off the operation that computes it."""
        return None

    def atom(self, value: ir.Value, view: View) -> Polynomial:
        return Polynomial.of(Tensor(value, view, is_boolean(value)))

    def predicate(self, value: ir.Value, view: View) -> Polynomial:
        """A boolean as 0 or 1; one of rank 0 has no axes, whatever the view of what it selects from."""
        return self.read(value, view if shape(value) else ())

    def total(self, polynomial: Polynomial, axes: Iterable[Axis]) -> Polynomial:
        """The sum along `axes`."""
        return self.resolved(polynomial).total(self.space, axes)

    def resolved(self, polynomial: Polynomial) -> Polynomial:
        """With every axis that was split since replaced by its parts."""
        return polynomial.mapped(self.space.resolve_view) if self.space.is_split else polynomial

    def bound(self, sizes: Iterable[int], view: View) -> View | None:
        """Axes for dimensions that are summed over where the result has `view`; None if the site has none such."""
        used = {axis for dim in self.space.resolve_view(view) for axis in dim}
        free = [axis for axis in self.space.resolve(self.axes) if axis not in used]
        out: list[tuple[Axis, ...]] = []
        for size in sizes:
            dim: list[Axis] = []
            while size > 1:
                axis = next((axis for axis in free if size % self.space.size(axis) == 0), None)
                if axis is None:
                    return None
                free = free[free.index(axis) + 1 :]
                dim.append(axis)
                size //= self.space.size(axis)
            out.append(tuple(dim))
        return tuple(out)

    def _read(self, value: ir.Value, view: View) -> Polynomial:
        number = splat(value)
        if number is not None and math.isfinite(number):
            return Polynomial.constant(float(number))
        known = self.known(value, view)
        if known is not None:
            return known
        op = defining_op(value)
        handler = None if op is None or self._depth > _MAX_DEPTH else self.handlers.get(op.name)
        if handler is not None and op is not None:
            try:
                found = handler(self, op, view)
            except NotPolynomial:
                found = None
            if found is not None:
                return found
        return self.atom(value, view)

    # ---- Handlers ----

    def shape_op(self, op: ir.Operation, view: View) -> Polynomial | None:
        if op.name == "stablehlo.convert":
            return self.read(op.operands[0], view) if _keeps_number(op) else None
        inner = operand_view(self.space, op, view)
        return None if inner is None else self.read(op.operands[0], inner)

    def select(self, op: ir.Operation, view: View) -> Polynomial | None:
        predicate, on_true, on_false = op.operands
        if any((number := splat(v)) is not None and not math.isfinite(number) for v in (on_true, on_false)):
            return None
        chosen = self.predicate(predicate, view)
        other = Polynomial.constant(1.0) - chosen
        return chosen * self.read(on_true, view) + other * self.read(on_false, view)

    def reduce(self, op: ir.Operation, view: View) -> Polynomial | None:
        if reduction(op) != "stablehlo.add" or splat(op.operands[1]) != 0:
            return None
        operand, dims = op.operands[0], int_list(op, "dimensions")
        summed = self.bound([shape(operand)[i] for i in dims], view)
        if summed is None or not float_width(element_type(operand)):
            return None
        rest, along = iter(view), iter(summed)
        inner = tuple(next(along) if i in dims else next(rest) for i in range(len(shape(operand))))
        return self.total(self.read(operand, inner), (axis for dim in summed for axis in dim))


def is_boolean(value: ir.Value) -> bool:
    type_ = element_type(value)
    return isinstance(type_, ir.IntegerType) and type_.width == 1


def _keeps_number(op: ir.Operation) -> bool:
    """Whether a convert is between floats, or from booleans to floats."""
    source, target = op.operands[0], op.results[0]
    return float_width(element_type(target)) >= 16 and (is_boolean(source) or float_width(element_type(source)) >= 16)


def _binary(combine: Callable[[Polynomial, Polynomial], Polynomial], boolean: bool = False) -> Handler:
    """For an operation on floats, or on booleans."""

    def read(reader: Reader, op: ir.Operation, view: View) -> Polynomial | None:
        fits = is_boolean(op.results[0]) if boolean else bool(float_width(element_type(op.results[0])))
        if not fits:
            return None
        a, b = (reader.read(operand, view) for operand in op.operands)
        return combine(a, b)

    return read


def _negate(reader: Reader, op: ir.Operation, view: View) -> Polynomial | None:
    return reader.read(op.operands[0], view).scaled(-1.0) if float_width(element_type(op.results[0])) else None


def _rounding(reader: Reader, op: ir.Operation, view: View) -> Polynomial | None:
    return reader.read(op.operands[0], view) if keeps_precision(op) else None


def _not(reader: Reader, op: ir.Operation, view: View) -> Polynomial | None:
    value = op.operands[0]
    return Polynomial.constant(1.0) - reader.read(value, view) if is_boolean(value) else None


HANDLERS: Mapping[str, Handler] = {
    **dict.fromkeys(SHAPE_OPS, Reader.shape_op),
    "stablehlo.add": _binary(lambda a, b: a + b),
    "stablehlo.subtract": _binary(lambda a, b: a - b),
    "stablehlo.multiply": _binary(lambda a, b: a * b),
    "stablehlo.divide": _binary(lambda a, b: a * b.reciprocal()),
    "stablehlo.negate": _negate,
    "stablehlo.reduce_precision": _rounding,
    "stablehlo.select": Reader.select,
    "stablehlo.reduce": Reader.reduce,
    "stablehlo.not": _not,
    "stablehlo.and": _binary(lambda a, b: a * b, boolean=True),
    "stablehlo.or": _binary(lambda a, b: a + b - a * b, boolean=True),
}
Reader.handlers = HANDLERS
