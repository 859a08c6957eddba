"""The gradient of a norm: values that equal the derivative for some cotangent g, compared as polynomials.

With n the normalised rows, r = 1/√(variance + epsilon), h = g · factor and means over the normalised axes,

    dx = r (h - mean h - n mean (h n)), for an RMS norm without the mean of h;  dweight = Σ g n;  dbias = Σ g

and what one more cotangent of x adds to dx. g is what the normalised rows, or x, are multiplied by somewhere.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from jaxlib.mlir import ir

from zenith_mlir.ir.facts import defined_by, shape, splat, users
from zenith_mlir.match.algebra.polynomial import NotPolynomial, Polynomial, Tensor
from zenith_mlir.match.axes import View
from zenith_mlir.match.chains import through_converts
from zenith_mlir.match.norm.forward import Parts, Vector, atoms_of, coefficient, is_part, unit, vector
from zenith_mlir.match.norm.reader import NormReader
from zenith_mlir.match.norm.spread import Spread
from zenith_mlir.match.norm.statistics import Statistics

_PRODUCTS = ("stablehlo.multiply", "stablehlo.divide")
# How many operations belong to a gradient, and how many values may be its cotangent, at most.
_MAX_OPS, _MAX_COTANGENTS = 96, 8


@dataclass(frozen=True)
class NormGradient:
    """`dx` is the gradient for `cotangent`, plus `sum_cotangent` if there is one; dweight and dbias where computed."""

    factor: Vector
    cotangent: ir.Value
    sum_cotangent: ir.Value | None
    dx: ir.Value
    dweight: ir.Value | None
    dbias: ir.Value | None

    @property
    def results(self) -> list[ir.Value]:
        return [value for value in (self.dx, self.dweight, self.dbias) if value is not None]


def gradient(found: Statistics, below: Parts, position: Callable[[ir.Operation], int]) -> NormGradient | None:
    """The gradient of what `below` is computed from, if the program has it."""
    best: NormGradient | None = None
    for cotangent, factor in itertools.islice(_cotangents(found, below, position), _MAX_COTANGENTS):
        matched = _Search(found, below, cotangent, factor).run(position)
        if matched is not None and matched.dweight is not None:
            return matched
        best = best or matched
    return best


def _cotangents(
    found: Statistics, below: Parts, position: Callable[[ir.Operation], int]
) -> Iterator[tuple[ir.Value, Polynomial]]:
    """What may be the cotangent, with the factor that the norm then has: it, or the product of both, is multiplied or
    divided by parts.
    """
    spread = below.spread
    products = {user for part in spread.views for user in users(part) if user.name in _PRODUCTS}
    factors = _factors(found, below)
    others = [
        other
        for product in sorted(products, key=position)
        for other in product.operands
        if other not in spread.views and shape(other) == shape(found.x)
    ]
    choices = [choice for other in others for choice in _choices(found, below, other, factors)]
    # Of a sum of squares of the result the cotangent is a multiple of the result.
    multiples = [multiple for norm in below.norms for multiple in _multiples(norm.result)]
    choices += [(multiple, factor) for multiple in multiples for factor in factors]
    tried: list[tuple[ir.Value, Polynomial]] = []
    for value, factor in choices:
        known = any(value == v and factor.terms == f.terms for v, f in tried)
        if not known and shape(value) == shape(found.x) and defined_by(value, "stablehlo.constant") is None:
            tried.append((value, factor))
            yield value, factor


def _multiples(value: ir.Value) -> Iterator[ir.Value]:
    """What `value` times numbers gives."""
    for user in users(value):
        if user.name == "stablehlo.multiply" and splat(user.operands[1]) is not None:
            yield user.results[0]
            yield from _multiples(user.results[0])


def _choices(
    found: Statistics, below: Parts, value: ir.Value, factors: list[Polynomial]
) -> Iterator[tuple[ir.Value, Polynomial]]:
    """`value` as a cotangent, or as a cotangent times the factor of the norm: that which the norm below has, or any
    where only the normalised rows are left of it.
    """
    for source in _unscaled(value):
        plain = [(source, factor) for factor in factors]
        products = [
            (inner, factor)
            for other, factor in _factored(found, below.spread, source)
            if len(factors) == 1 or any(factor.terms == f.terms for f in factors)
            for inner in _unscaled(other)
        ]
        yield from [*plain, *products] if len(factors) == 1 else [*products, *plain]


def _unscaled(value: ir.Value) -> Iterator[ir.Value]:
    """`value`, and what it is a multiple of."""
    value = through_converts(value)
    yield value
    product = defined_by(value, "stablehlo.multiply")
    if product is not None and splat(product.operands[1]) is not None:
        yield through_converts(product.operands[0])


def _factors(found: Statistics, below: Parts) -> list[Polynomial]:
    """What x, the normalised rows or the root are multiplied by; last the number one."""
    reader = below.spread.reader
    x, root = reader.resolved(reader.x), reader.resolved(reader.root)
    centre = reader.resolved(reader.x - reader.mean(reader.x)) if found.centred else x
    # Of what a part may be a multiple, by which of its terms that shows, and what a unit of it is.
    wholes = [(root, root, 1.0), (centre * root, x * root, found.scale**-0.5), (centre, x, 1.0), (x, x, 1.0)]
    factors: list[Polynomial] = []
    for value, view in below.spread.views.items():
        if shape(value) != shape(found.x):
            continue
        polynomial = reader.resolved(reader.read(value, view))
        for whole, term, scale in wholes:
            multiple = coefficient(polynomial, term)
            said = vector(found, multiple.scaled(scale))
            if said is not None and said.tensor is not None and not (polynomial - whole * multiple).terms:
                factors.append(multiple.scaled(scale))
    distinct = [factor for i, factor in enumerate(factors) if all(factor.terms != f.terms for f in factors[:i])]
    return [*distinct, Polynomial.constant(1.0)]


def _factored(found: Statistics, spread: Spread[NormReader], value: ir.Value) -> Iterator[tuple[ir.Value, Polynomial]]:
    """`value` as a product of a cotangent and the norm's factor."""
    product = defined_by(value, "stablehlo.multiply")
    if product is None:
        return
    for factor, other in itertools.permutations(product.operands):
        try:
            polynomial = spread.reader.resolved(spread.reader.read(factor, found.view))
        except NotPolynomial:
            continue
        if vector(found, polynomial) is not None:
            yield other, polynomial


class _Search:
    """The values that follow from the parts of a norm and from one cotangent."""

    def __init__(self, found: Statistics, below: Parts, cotangent: ir.Value, factor: Polynomial) -> None:
        self._found, self._below, self._cotangent, self._factor = found, below, cotangent, factor
        self._spread = found.following(cotangent)
        self._spread.views.update(below.spread.views)
        reader = self._reader = self._spread.reader
        g = Polynomial.of(Tensor(cotangent, found.view))
        n, h = unit(found, reader), g * factor
        projected = h - n * reader.mean(h * n)
        centred = projected - reader.mean(h) if found.centred else projected
        rows = [
            axis for axis in reader.space.resolve(reader.axes) if axis not in reader.space.resolve(reader.normalised)
        ]
        self._dx = reader.resolved(centred * reader.root).scaled(found.scale**0.5)
        self._dweight, self._dbias = (reader.resolved(reader.total(p, rows)) for p in (g * n, g))

    def run(self, position: Callable[[ir.Operation], int]) -> NormGradient | None:
        dx: tuple[ir.Value, ir.Value | None] | None = None
        vectors: dict[str, ir.Value] = {}
        start = [*self._below.spread.views, self._cotangent]
        for value in self._spread.follow(start, position, self._is_wanted, _MAX_OPS):
            view = self._spread.views[value]
            if shape(value) == shape(self._found.x):
                # The sum with another cotangent is taken where nothing else needs the gradient alone.
                if dx is None or len(users(dx[0])) == 1:
                    dx = self._as_dx(value, view) or dx
            elif shape(value) == tuple(shape(self._found.x)[i] for i in self._found.dims):
                polynomial = self._reader.resolved(self._reader.read(value, view))
                for name, wanted in (("dweight", self._dweight), ("dbias", self._dbias)):
                    if _equal(polynomial, wanted):
                        vectors[name] = value
        factor = vector(self._found, self._factor)
        if dx is None or factor is None:
            return None
        return NormGradient(factor, self._cotangent, dx[1], dx[0], vectors.get("dweight"), vectors.get("dbias"))

    def _is_wanted(self, value: ir.Value, view: View) -> bool:
        atoms = atoms_of(self._reader, value, view)
        foreign = [atom for atom in atoms if not is_part(self._found, self._reader, atom)]
        return len(foreign) <= 1 and all(isinstance(atom, Tensor) for atom in foreign)

    def _as_dx(self, value: ir.Value, view: View) -> tuple[ir.Value, ir.Value | None] | None:
        """`value`, and what it holds beside the gradient, if it is the gradient."""
        rest = self._reader.resolved(self._reader.read(value, view)) - self._dx
        if not rest.terms:
            return value, None
        if len(rest.terms) > 1:
            return None
        ((monomial, coefficient),) = rest.terms.items()
        ((atom, exponent), *others) = monomial or ((None, 0),)
        is_whole = isinstance(atom, Tensor) and not atom.boolean and atom.view == self._reader.space.resolve_view(view)
        if others or exponent != 1 or abs(coefficient - 1) > 1e-6 or not is_whole or not isinstance(atom, Tensor):
            return None
        fits = shape(atom.value) == shape(value) and atom.value != self._found.x
        return (value, atom.value) if fits else None


def _equal(a: Polynomial, b: Polynomial) -> bool:
    ratio = a.ratio_to(b)
    return ratio is not None and abs(ratio - 1) < 1e-5
