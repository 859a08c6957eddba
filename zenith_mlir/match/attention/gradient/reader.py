"""The algebra's reader for the gradient of one attention: sums are along the softmax axis, a sink has a share."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import ClassVar

from jaxlib.mlir import ir

from zenith_mlir.ir.facts import int_list, reduction, shape, splat
from zenith_mlir.match.algebra.polynomial import Atom, Polynomial, Tensor
from zenith_mlir.match.algebra.reader import HANDLERS, Handler, Reader
from zenith_mlir.match.attention.gradient.sink import sink_of, weights, without_dim
from zenith_mlir.match.attention.softmax import Softmax
from zenith_mlir.match.axes import Axis, AxisSpace, View


@dataclass(frozen=True)
class Normaliser(Atom):
    """What the exponentials of a row are divided by, where that is more than their own sum."""

    def axes(self, space: AxisSpace) -> frozenset[Axis]:
        return frozenset()

    def mapped(self, view_of: Callable[[View], View]) -> Normaliser:
        return self


class AttentionReader(Reader):
    """Reads values as polynomials.

    `views` are the views of values on the way from the exponentials: sums along the softmax axis are recognised among
    them.
    """

    handlers: ClassVar[Mapping[str, Handler]]

    def __init__(self, softmax: Softmax, views: Mapping[ir.Value, View]) -> None:
        super().__init__(softmax.space, (softmax.axis,))
        self._column, self._views = softmax.axis, views
        self._sink = sink_of(softmax)
        self._weights = Polynomial({})
        if self._sink is not None:
            (first, *_) = weights(softmax)
            self._weights = Polynomial.of(Tensor(first, softmax.view))
        self._quotients = {} if softmax.normalised is None else {softmax.probabilities: softmax.normalised}

    def row_total(self, polynomial: Polynomial) -> Polynomial:
        """The sum along the softmax axis."""
        total = self.total(polynomial, (self._column,))
        if self._sink is None:
            return total
        ((own, _),) = self.total(self._weights, (self._column,)).terms.items()
        ((atom, _),) = own
        return self.resolved(total).replaced(atom, Polynomial.of(Normaliser()) - self._sink_weight())

    def sink_share(self) -> Polynomial:
        """What the sink takes of a row: its exponential over what is divided by."""
        return self._sink_weight() * Polynomial.of(Normaliser()).reciprocal()

    def _sink_weight(self) -> Polynomial:
        assert self._sink is not None
        return self.read(self._sink.weight, self._sink.view)

    def known(self, value: ir.Value, view: View) -> Polynomial | None:
        if value not in self._quotients:
            return None
        exponentials = Polynomial.of(Tensor(self._quotients[value], view))
        return exponentials * self.row_total(exponentials).reciprocal()

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
        known = self.space.resolve_view(known)
        if self._sink is not None and dims == [self._sink.dim] and self._sink.is_joined(operand):
            at_sink = without_dim(known, self._sink.dim)
            return self.row_total(self.read(operand, known)) + self.read(operand, at_sink) if at_sink == inner else None
        summed = [axis for i in dims for axis in known[i]]
        if summed != [self._column] or any(known[i] != inner[i] for i in range(len(known)) if i not in dims):
            return None
        return self.row_total(self.read(operand, known))

    def slice(self, op: ir.Operation, view: View) -> Polynomial | None:
        part = "" if self._sink is None else self._sink.slices(op)
        return self.read(op.operands[0], view) if part else None

    def pad(self, op: ir.Operation, view: View) -> Polynomial | None:
        if self._sink is None or not self._sink.pads(op):
            return None
        return self.read(op.operands[0], view) if view[self._sink.dim] else Polynomial({})


AttentionReader.handlers = {
    **HANDLERS,
    "stablehlo.reduce": AttentionReader.reduce,
    "stablehlo.slice": AttentionReader.slice,
    "stablehlo.pad": AttentionReader.pad,
}
