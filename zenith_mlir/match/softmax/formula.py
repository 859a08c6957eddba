"""Polynomials compared with softmax and log-softmax and with their gradients.

With E = exp(x - m), s = Σ E and p = E / s:

    softmax      y = p             dx = p (dy - Σ p dy)
    log-softmax  y = x - m - log s  dx = dy - p Σ dy

What dy multiplies says dy: of the terms of dx those that hold no sum of exponentials but p alone.
"""

from __future__ import annotations

from zenith_mlir.match.algebra.polynomial import Atom, Polynomial
from zenith_mlir.match.cross_entropy.atoms import Exponential
from zenith_mlir.match.cross_entropy.reader import CrossEntropyReader


def probabilities(reader: CrossEntropyReader) -> Polynomial:
    return reader.exponential * reader.sum.reciprocal()


def result(reader: CrossEntropyReader, log: bool) -> Polynomial:
    return reader.x - reader.maximum - reader.log_sum if log else probabilities(reader)


def cotangent(reader: CrossEntropyReader, polynomial: Polynomial, log: bool) -> Polynomial | None:
    """The dy of which `polynomial` is the gradient; None if it is none."""
    found = reader.resolved(polynomial)
    p = probabilities(reader)
    ((own, _),) = p.terms.items()
    alone: dict[frozenset[tuple[Atom, int]], float] = {}
    for monomial, coefficient in found.terms.items():
        rest = monomial if log else monomial - own
        if (log or own <= monomial) and not any(_has_exponentials(atom) for atom, _ in rest):
            alone[rest] = coefficient
    dy = Polynomial(alone)
    if not dy.terms:
        return None
    expected = dy - p * reader.total(dy, (reader.column,))
    if not log:
        expected = p * dy - p * reader.total(p * dy, (reader.column,))
    return dy if not (found - expected).terms else None


def _has_exponentials(atom: Atom) -> bool:
    return isinstance(atom, Exponential) or any(isinstance(inner, Exponential) for inner in atom.inner())
