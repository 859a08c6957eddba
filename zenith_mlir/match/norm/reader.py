"""The algebra's reader for one norm: x is an atom, and so is the root r = 1/√V of its variance plus epsilon."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import ClassVar

from jaxlib.mlir import ir

from zenith_mlir.ir.facts import defining_op, splat
from zenith_mlir.match.algebra.polynomial import Atom, Polynomial, Tensor
from zenith_mlir.match.algebra.reader import HANDLERS, Handler, Reader
from zenith_mlir.match.axes import Axis, AxisSpace, View


@dataclass(frozen=True)
class Root(Atom):
    """1/√V, which varies along `rows`."""

    rows: frozenset[Axis]

    def axes(self, space: AxisSpace) -> frozenset[Axis]:
        return frozenset(space.resolve(self.rows))

    def mapped(self, view_of: Callable[[View], View]) -> Root:
        return Root(frozenset(axis for dim in view_of((tuple(sorted(self.rows)),)) for axis in dim))


class NormReader(Reader):
    """Reads what is computed from `x`, whose dimensions are `view`; the means are over the axes `normalised`.

    `leaves` are values that are not looked into, with their views, and so are results of operations that `enters` says
    no to.
    """

    handlers: ClassVar[Mapping[str, Handler]]

    def __init__(
        self,
        space: AxisSpace,
        x: ir.Value,
        view: View,
        normalised: tuple[Axis, ...],
        enters: Callable[[ir.Operation], bool] = lambda op: True,
    ) -> None:
        super().__init__(space, [axis for dim in view for axis in dim])
        self.leaves = {x: view}
        self._enters = enters
        self.normalised = normalised
        self.x = Polynomial.of(Tensor(x, view))
        self.sum = self.total(self.x, normalised)
        self.square_sum = self.total(self.x * self.x, normalised)
        self._variance: Polynomial | None = None

    @property
    def count(self) -> int:
        """How many elements a mean is over."""
        return math.prod(self.space.size(axis) for axis in self.space.resolve(self.normalised))

    @property
    def root(self) -> Polynomial:
        rows = frozenset(self.space.resolve(self.axes)) - frozenset(self.space.resolve(self.normalised))
        return Polynomial.of(Root(rows))

    def rooted(self, variance: Polynomial, enters: Callable[[ir.Operation], bool], *leaves: ir.Value) -> NormReader:
        """A reader to which 1/√`variance` is the atom `root`; `leaves` have the view of x."""
        ((x, view),) = itertools.islice(self.leaves.items(), 1)
        reader = NormReader(self.space, x, view, self.normalised, enters)
        reader.leaves.update(dict.fromkeys(leaves, view))
        reader._variance = variance
        return reader

    def mean(self, polynomial: Polynomial) -> Polynomial:
        return self.total(polynomial, self.normalised).scaled(1 / self.count)

    def known(self, value: ir.Value, view: View) -> Polynomial | None:
        if value not in self.leaves:
            op = defining_op(value)
            return self.atom(value, view) if op is not None and not self._enters(op) else None
        leaf = self.space.resolve_view(self.leaves[value])
        return Polynomial.of(Tensor(value, view)) if view == leaf else None

    def power(self, base: Polynomial, exponent: float) -> Polynomial | None:
        """`base` to a multiple of ½: a product, or with V as the base a power of the root."""
        ratio = None if self._variance is None else self.resolved(base).ratio_to(self.resolved(self._variance))
        if ratio is not None and ratio > 0 and float(2 * exponent).is_integer():
            ((root, _),) = next(iter(self.root.terms))
            return Polynomial({frozenset({(root, round(-2 * exponent))}): ratio**exponent})
        if len(base.terms) == 1 and exponent == -1:
            return base.reciprocal()
        small = float(exponent).is_integer() and 1 <= exponent <= 4
        return math.prod([base] * round(exponent), start=Polynomial.constant(1.0)) if small else None

    def cannot_be_negative(self, polynomial: Polynomial) -> bool:
        """Whether it is a positive multiple of the mean of squares, or of the variance."""
        squares = self.square_sum.scaled(1 / self.count)
        centred = squares - (self.sum * self.sum).scaled(self.count**-2)
        ratios = (self.resolved(polynomial).ratio_to(self.resolved(known)) for known in (squares, centred))
        return any(ratio is not None and ratio > 0 for ratio in ratios)

    def divide(self, op: ir.Operation, view: View) -> Polynomial | None:
        a, b = (self.read(operand, view) for operand in op.operands)
        inverse = self.power(b, -1)
        return None if inverse is None else a * inverse

    def maximum(self, op: ir.Operation, view: View) -> Polynomial | None:
        """Variances computed as a difference are clamped to what they cannot fall below."""
        value = self.read(op.operands[0], view)
        return value if splat(op.operands[1]) == 0 and self.cannot_be_negative(value) else None

    def compare(self, op: ir.Operation, view: View) -> Polynomial | None:
        """Which side of a clamp was taken, as its gradient asks; the gradient of a variance that is 0 is 0."""
        a, b = (self.resolved(self.read(operand, view)) for operand in op.operands)
        direction = str(op.attributes["comparison_direction"]).split()[-1].rstrip(">")
        if a.terms == b.terms:
            return Polynomial.constant(float(direction in ("EQ", "GE", "LE")))
        if not a.terms:
            a, b, direction = b, a, _MIRRORED.get(direction, direction)
        if b.terms or not self.cannot_be_negative(a):
            return None
        return Polynomial.constant(float(direction in ("GT", "GE", "NE")))


_MIRRORED = {"GT": "LT", "LT": "GT", "GE": "LE", "LE": "GE"}


def _power_of(exponent: float) -> Handler:
    def read(reader: NormReader, op: ir.Operation, view: View) -> Polynomial | None:
        return reader.power(reader.read(op.operands[0], view), exponent)

    return read


def _power(reader: NormReader, op: ir.Operation, view: View) -> Polynomial | None:
    exponent = splat(op.operands[1])
    return None if exponent is None else reader.power(reader.read(op.operands[0], view), float(exponent))


NormReader.handlers = {
    **HANDLERS,
    "stablehlo.rsqrt": _power_of(-0.5),
    "stablehlo.sqrt": _power_of(0.5),
    "stablehlo.power": _power,
    "stablehlo.divide": NormReader.divide,
    "stablehlo.maximum": NormReader.maximum,
    "stablehlo.compare": NormReader.compare,
}
