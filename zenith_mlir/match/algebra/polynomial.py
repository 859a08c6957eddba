"""Polynomials over tensors: the normal form in which expressions are compared.

An atom is something about which nothing more is known than what it varies along: a tensor of the program, or the sum of
a product of atoms along some axes. Products and sums are elementwise, exponents may be negative. Two programs that
multiply, add, negate, divide by products, select and sum their way to the same function of the same atoms have the same
polynomial, whatever the order and grouping: the ways to write a softmax's derivative, or a layer norm, become one.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import reduce
from typing import TypeAlias

from jaxlib.mlir import ir

from zenith_mlir.match.axes import Axis, AxisSpace, View, axes_of


@dataclass(frozen=True)
class Atom:
    """One factor of a monomial. A boolean one is 0 or 1, so it equals its powers."""

    @property
    def is_boolean(self) -> bool:
        return False

    def axes(self, space: AxisSpace) -> frozenset[Axis]:
        """What it varies along."""
        raise NotImplementedError

    def mapped(self, view_of: Callable[[View], View]) -> Atom:
        """With `view_of` applied to the view of every tensor."""
        raise NotImplementedError

    def inner(self) -> Iterator[Atom]:
        """Atoms that it is made of."""
        return iter(())


@dataclass(frozen=True)
class Tensor(Atom):
    """A value of the program, with what its dimensions run over."""

    value: ir.Value
    view: View
    boolean: bool = False

    @property
    def is_boolean(self) -> bool:
        return self.boolean

    def axes(self, space: AxisSpace) -> frozenset[Axis]:
        return frozenset(axes_of(space.resolve_view(self.view)))

    def mapped(self, view_of: Callable[[View], View]) -> Tensor:
        return Tensor(self.value, view_of(self.view), self.boolean)


@dataclass(frozen=True)
class Total(Atom):
    """The sum of a product along axes, along each of which the product varies."""

    product: Monomial
    summed: frozenset[Axis]

    def axes(self, space: AxisSpace) -> frozenset[Axis]:
        return _varies_along(self.product, space) - frozenset(space.resolve(self.summed))

    def mapped(self, view_of: Callable[[View], View]) -> Total:
        summed = axes_of(view_of((tuple(sorted(self.summed)),)))
        return Total(_mapped(self.product, view_of), frozenset(summed))

    def inner(self) -> Iterator[Atom]:
        return _atoms([self.product])


# Exponents of atoms.
Monomial: TypeAlias = frozenset[tuple[Atom, int]]
ONE: Monomial = frozenset()
# Beyond, an expression is none of those that are looked for.
_MAX_TERMS = 64
# Coefficients come from float32 constants of the program.
_TOLERANCE = 1e-5


class NotPolynomial(Exception):
    """An expression has no normal form, or one too long to be worth having."""


@dataclass(frozen=True)
class Polynomial:
    """Coefficients of monomials, none of them zero."""

    terms: Mapping[Monomial, float]

    @classmethod
    def constant(cls, number: float) -> Polynomial:
        return cls({ONE: number} if number else {})

    @classmethod
    def of(cls, atom: Atom) -> Polynomial:
        return cls({frozenset({(atom, 1)}): 1.0})

    def __add__(self, other: Polynomial) -> Polynomial:
        terms = dict(self.terms)
        for monomial, coefficient in other.terms.items():
            before = terms.pop(monomial, 0.0)
            if abs(before + coefficient) > _TOLERANCE * max(abs(before), abs(coefficient)):
                terms[monomial] = before + coefficient
        return _limited(terms)

    def __sub__(self, other: Polynomial) -> Polynomial:
        return self + other.scaled(-1.0)

    def __mul__(self, other: Polynomial) -> Polynomial:
        product = Polynomial({})
        for (a, x), (b, y) in itertools.product(self.terms.items(), other.terms.items()):
            # One at a time: with a boolean m, both m · m and m · 1 are m.
            product += Polynomial({_times(a, b): x * y})
        return product

    def scaled(self, factor: float) -> Polynomial:
        return Polynomial({monomial: factor * c for monomial, c in self.terms.items()} if factor else {})

    def reciprocal(self) -> Polynomial:
        """Raises: NotPolynomial unless there is one term, free of booleans."""
        if len(self.terms) != 1:
            raise NotPolynomial
        ((monomial, coefficient),) = self.terms.items()
        if any(atom.is_boolean for atom, _ in monomial):
            raise NotPolynomial
        return Polynomial({frozenset((atom, -exponent) for atom, exponent in monomial): 1.0 / coefficient})

    def total(self, space: AxisSpace, axes: Iterable[Axis]) -> Polynomial:
        """The sum along `axes`; atoms that do not vary along them are factors of the sum."""
        along = frozenset(space.resolve(axes))
        result = Polynomial({})
        for monomial, coefficient in self.terms.items():
            inside = frozenset(factor for factor in monomial if factor[0].axes(space) & along)
            summed = _varies_along(inside, space) & along
            count = math.prod(space.size(axis) for axis in along - summed)
            term = Polynomial({monomial - inside: coefficient * count})
            result += term * Polynomial.of(_total(inside, summed, space)) if inside else term
        return result

    def replaced(self, atom: Atom, by: Polynomial) -> Polynomial:
        """With `by` in the place of `atom`, which nothing is divided by."""
        result = Polynomial({})
        for monomial, coefficient in self.terms.items():
            term = Polynomial({frozenset(factor for factor in monomial if factor[0] != atom): coefficient})
            for _ in range(dict(monomial).get(atom, 0)):
                term = term * by
            result += term
        return result

    def ratio_to(self, other: Polynomial) -> float | None:
        """c where self = c · other, c not 0; None if there is none."""
        if self.terms.keys() != other.terms.keys() or not self.terms:
            return None
        ratios = [coefficient / other.terms[monomial] for monomial, coefficient in self.terms.items()]
        return ratios[0] if max(ratios) - min(ratios) <= _TOLERANCE * abs(ratios[0]) else None

    def atoms(self) -> set[Atom]:
        """All atoms, those inside of sums included."""
        return set(_atoms(self.terms))

    def mapped(self, view_of: Callable[[View], View]) -> Polynomial:
        """With `view_of` applied to the view of every tensor."""
        result = Polynomial({})
        for monomial, coefficient in self.terms.items():
            result += Polynomial({_mapped(monomial, view_of): coefficient})
        return result


def _limited(terms: dict[Monomial, float]) -> Polynomial:
    if len(terms) > _MAX_TERMS:
        raise NotPolynomial
    return Polynomial(terms)


def _times(a: Monomial, b: Monomial) -> Monomial:
    exponents = dict(a)
    for atom, exponent in b:
        exponents[atom] = exponents.get(atom, 0) + exponent
        if atom.is_boolean:
            exponents[atom] = min(exponents[atom], 1)
    return frozenset((atom, exponent) for atom, exponent in exponents.items() if exponent)


def _varies_along(monomial: Monomial, space: AxisSpace) -> frozenset[Axis]:
    return frozenset().union(*(atom.axes(space) for atom, _ in monomial))


def _total(product: Monomial, summed: frozenset[Axis], space: AxisSpace) -> Total:
    """The sum of `product` along `summed`; a sum of sums is one sum."""
    sums = [factor for factor in product if isinstance(factor[0], Total)]
    if len(sums) == 1 and sums[0][1] == 1:
        (inner,) = (atom for atom, _ in sums if isinstance(atom, Total))
        others = product - {(inner, 1)}
        along = frozenset(space.resolve(inner.summed))
        if not _varies_along(others, space) & along:
            return Total(_times(others, inner.product), summed | along)
    return Total(product, summed)


def _atoms(monomials: Iterable[Monomial]) -> Iterator[Atom]:
    for monomial in monomials:
        for atom, _ in monomial:
            yield atom
            yield from atom.inner()


def _mapped(monomial: Monomial, view_of: Callable[[View], View]) -> Monomial:
    # What was written in two ways becomes one atom: exponents add up.
    return reduce(_times, (frozenset({(atom.mapped(view_of), exponent)}) for atom, exponent in monomial), ONE)
