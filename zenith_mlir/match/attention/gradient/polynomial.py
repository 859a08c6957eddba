"""Polynomials over tensors: the normal form in which gradients are compared.

An atom is a tensor about which nothing more is known (the exponentials, the product of cotangent and values, a mask)
or the sum of a product of atoms along the softmax axis. Products and sums are elementwise. Two programs that multiply,
add, negate, divide by products, select and sum their way to the same function of the same atoms have the same
polynomial, whatever the order and grouping: the ways to write the derivative of a softmax become one.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import reduce
from typing import TypeAlias

from jaxlib.mlir import ir

from zenith_mlir.match.axes import View


@dataclass(frozen=True)
class Tensor:
    """A value of the program, with what its dimensions run over. A boolean one is 0 or 1, so it equals its powers."""

    value: ir.Value
    view: View
    boolean: bool = False


@dataclass(frozen=True)
class Total:
    """The sum along the softmax axis of a product of atoms that all vary along it."""

    product: Monomial


@dataclass(frozen=True)
class Normaliser:
    """What the exponentials of a row are divided by, where that is more than their own sum."""


Atom: TypeAlias = Tensor | Total | Normaliser
# Exponents of atoms.
Monomial: TypeAlias = frozenset[tuple[Atom, int]]
ONE: Monomial = frozenset()
# Beyond, an expression is no gradient of a softmax.
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
        if any(isinstance(atom, Tensor) and atom.boolean for atom, _ in monomial):
            raise NotPolynomial
        return Polynomial({frozenset((atom, -exponent) for atom, exponent in monomial): 1.0 / coefficient})

    def total(self, varies: Callable[[Atom], bool], count: int) -> Polynomial:
        """The sum along an axis of `count` elements; atoms that do not vary along it are factors of the sum."""
        result = Polynomial({})
        for monomial, coefficient in self.terms.items():
            inside = frozenset((atom, exponent) for atom, exponent in monomial if varies(atom))
            summed = Polynomial.of(Total(inside)) if inside else Polynomial.constant(float(count))
            result += Polynomial({monomial - inside: coefficient}) * summed
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
        if isinstance(atom, Tensor) and atom.boolean:
            exponents[atom] = min(exponents[atom], 1)
    return frozenset((atom, exponent) for atom, exponent in exponents.items() if exponent)


def _atoms(monomials: Iterable[Monomial]) -> Iterable[Atom]:
    for monomial in monomials:
        for atom, _ in monomial:
            yield atom
            if isinstance(atom, Total):
                yield from _atoms([atom.product])


def _mapped(monomial: Monomial, view_of: Callable[[View], View]) -> Monomial:
    def atom_mapped(atom: Atom) -> Atom:
        if isinstance(atom, Total):
            return Total(_mapped(atom.product, view_of))
        if isinstance(atom, Normaliser):
            return atom
        return Tensor(atom.value, view_of(atom.view), atom.boolean)

    # What was written in two ways becomes one atom: exponents add up.
    return reduce(_times, (frozenset({(atom_mapped(atom), exponent)}) for atom, exponent in monomial), ONE)
