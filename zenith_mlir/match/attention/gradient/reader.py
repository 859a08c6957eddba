"""From values of the program to polynomials."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

from jaxlib.mlir import ir

from zenith_mlir.ir.facts import defining_op, element_type, float_width, int_list, shape, splat
from zenith_mlir.match.attention.gradient.polynomial import Atom, Normaliser, NotPolynomial, Polynomial, Tensor
from zenith_mlir.match.attention.gradient.sink import sink_of, weights, without_dim
from zenith_mlir.match.attention.logits import SHAPE_OPS, keeps_precision
from zenith_mlir.match.attention.softmax import Softmax, reduction
from zenith_mlir.match.axes import View, axes_of, operand_view

# How far up an expression is read; what lies beyond is an atom.
_MAX_DEPTH = 48


class Reader:
    """Reads values as polynomials.

    `views` are the views of values on the way from the exponentials: sums along the softmax axis are recognised among
    them.
    """

    def __init__(self, softmax: Softmax, views: Mapping[ir.Value, View]) -> None:
        self._space, self._column, self._views = softmax.space, softmax.axis, views
        self._sink = sink_of(softmax)
        self._weights = Polynomial({})
        if self._sink is not None:
            (first, *_) = weights(softmax)
            self._weights = Polynomial.of(Tensor(first, softmax.view))
        self._quotients = {} if softmax.normalised is None else {softmax.probabilities: softmax.normalised}
        self._known: dict[tuple[ir.Value, View], Polynomial] = {}
        self._depth = 0

    def read(self, value: ir.Value, view: View) -> Polynomial:
        """The polynomial of `value`, whose dimensions are `view`.

        Raises: NotPolynomial if it has too many terms.
        """
        key = (value, self._space.resolve_view(view))
        if key not in self._known:
            self._depth += 1
            self._known[key] = self._read(*key)
            self._depth -= 1
        return self._known[key]

    def predicate(self, value: ir.Value, view: View) -> Polynomial:
        """A boolean as 0 or 1; one of rank 0 has no axes, whatever the view of what it selects from."""
        return self.read(value, view if shape(value) else ())

    def total(self, polynomial: Polynomial) -> Polynomial:
        """The sum along the softmax axis."""
        count = self._space.size(self._column)
        total = polynomial.total(self._varies, count)
        if self._sink is None:
            return total
        ((own, _),) = self._resolved(self._weights).total(self._varies, count).terms.items()
        ((atom, _),) = own
        return self._resolved(total).replaced(atom, Polynomial.of(Normaliser()) - self._sink_weight())

    def sink_share(self) -> Polynomial:
        """What the sink takes of a row: its exponential over what is divided by."""
        return self._sink_weight() * Polynomial.of(Normaliser()).reciprocal()

    def _sink_weight(self) -> Polynomial:
        assert self._sink is not None
        return self.read(self._sink.weight, self._sink.view)

    def _resolved(self, polynomial: Polynomial) -> Polynomial:
        return polynomial.mapped(self._space.resolve_view)

    def _varies(self, atom: Atom) -> bool:
        return isinstance(atom, Tensor) and self._column in axes_of(self._space.resolve_view(atom.view))

    def _read(self, value: ir.Value, view: View) -> Polynomial:
        number = splat(value)
        if number is not None and math.isfinite(number):
            return Polynomial.constant(float(number))
        if value in self._quotients:
            weights = Polynomial.of(Tensor(self._quotients[value], view))
            return weights * self.total(weights).reciprocal()
        op = defining_op(value)
        handler = None if op is None or self._depth > _MAX_DEPTH else _READERS.get(op.name)
        if handler is not None and op is not None:
            try:
                found = handler(self, op, view)
            except NotPolynomial:
                found = None
            if found is not None:
                return found
        return Polynomial.of(Tensor(value, view, _is_boolean(value)))

    def shape_op(self, op: ir.Operation, view: View) -> Polynomial | None:
        if op.name == "stablehlo.convert" and not _keeps_number(op):
            return None
        inner = view if op.name == "stablehlo.convert" else operand_view(self._space, op, view)
        return None if inner is None else self.read(op.operands[0], inner)

    def select(self, op: ir.Operation, view: View) -> Polynomial | None:
        predicate, on_true, on_false = op.operands
        if any((number := splat(v)) is not None and not math.isfinite(number) for v in (on_true, on_false)):
            return None
        chosen = self.predicate(predicate, view)
        other = Polynomial.constant(1.0) - chosen
        return chosen * self.read(on_true, view) + other * self.read(on_false, view)

    def reduce(self, op: ir.Operation, view: View) -> Polynomial | None:
        """A sum along the softmax axis, or along dimensions of size one."""
        if reduction(op) != "stablehlo.add" or splat(op.operands[1]) != 0:
            return None
        operand, dims = op.operands[0], int_list(op, "dimensions")
        known = self._views.get(operand)
        rest = iter(view)
        inner = tuple(() if i in dims else next(rest) for i in range(len(shape(operand))))
        if all(shape(operand)[i] == 1 for i in dims):
            return self.read(operand, inner)
        if known is None:
            return None
        known = self._space.resolve_view(known)
        if self._sink is not None and dims == [self._sink.dim] and self._sink.is_joined(operand):
            at_sink = without_dim(known, self._sink.dim)
            return self.total(self.read(operand, known)) + self.read(operand, at_sink) if at_sink == inner else None
        summed = [axis for i in dims for axis in known[i]]
        if summed != [self._column] or any(known[i] != inner[i] for i in range(len(known)) if i not in dims):
            return None
        return self.total(self.read(operand, known))

    def slice(self, op: ir.Operation, view: View) -> Polynomial | None:
        part = "" if self._sink is None else self._sink.slices(op)
        return self.read(op.operands[0], view) if part else None

    def pad(self, op: ir.Operation, view: View) -> Polynomial | None:
        if self._sink is None or not self._sink.pads(op):
            return None
        return self.read(op.operands[0], view) if view[self._sink.dim] else Polynomial({})


def _is_boolean(value: ir.Value) -> bool:
    type_ = element_type(value)
    return isinstance(type_, ir.IntegerType) and type_.width == 1


def _keeps_number(op: ir.Operation) -> bool:
    """Whether a convert is between floats, or from booleans to floats."""
    source, target = op.operands[0], op.results[0]
    return float_width(element_type(target)) >= 16 and (_is_boolean(source) or float_width(element_type(source)) >= 16)


def _binary(combine: Callable[[Polynomial, Polynomial], Polynomial]) -> Callable[..., Polynomial | None]:
    def read(reader: Reader, op: ir.Operation, view: View) -> Polynomial | None:
        if not (_is_boolean(op.results[0]) or float_width(element_type(op.results[0]))):
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
    return Polynomial.constant(1.0) - reader.read(value, view) if _is_boolean(value) else None


def _floats(combine: Callable[[Polynomial, Polynomial], Polynomial]) -> Callable[..., Polynomial | None]:
    """For operations that mean something else on booleans."""
    inner = _binary(combine)
    return lambda reader, op, view: None if _is_boolean(op.results[0]) else inner(reader, op, view)


def _booleans(combine: Callable[[Polynomial, Polynomial], Polynomial]) -> Callable[..., Polynomial | None]:
    inner = _binary(combine)
    return lambda reader, op, view: inner(reader, op, view) if _is_boolean(op.results[0]) else None


_READERS: dict[str, Callable[[Reader, ir.Operation, View], Polynomial | None]] = {
    **dict.fromkeys(SHAPE_OPS, Reader.shape_op),
    "stablehlo.add": _floats(lambda a, b: a + b),
    "stablehlo.subtract": _floats(lambda a, b: a - b),
    "stablehlo.multiply": _floats(lambda a, b: a * b),
    "stablehlo.divide": _floats(lambda a, b: a * b.reciprocal()),
    "stablehlo.negate": _negate,
    "stablehlo.reduce_precision": _rounding,
    "stablehlo.select": Reader.select,
    "stablehlo.reduce": Reader.reduce,
    "stablehlo.slice": Reader.slice,
    "stablehlo.pad": Reader.pad,
    "stablehlo.not": _not,
    "stablehlo.and": _booleans(lambda a, b: a * b),
    "stablehlo.or": _booleans(lambda a, b: a + b - a * b),
}
