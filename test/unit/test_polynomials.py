"""Polynomials over tensors: the laws of a ring, judged by numbers put in the place of atoms."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given
from jaxlib.mlir import ir

import zenith_mlir as zenith
from zenith_mlir.ir.facts import walk
from zenith_mlir.match.algebra.polynomial import (
    Atom,
    Monomial,
    NotPolynomial,
    Polynomial,
    Tensor,
    Total,
)
from zenith_mlir.match.axes import AxisSpace

MODULE = zenith.Module.parse(
    "func.func @main(%x: tensor<4xf32>, %y: tensor<4xf32>, %r: tensor<f32>, %m: tensor<4xi1>) -> tensor<4xf32> {\n"
    "  return %x : tensor<4xf32>\n}\n"
)
COUNT = 4
SPACE = AxisSpace()
COLUMN, ROW = SPACE.new(COUNT), SPACE.new(3)


def _argument(i: int) -> ir.Value:
    (main,) = (op for op in walk(MODULE.operation) if op.name == "func.func")
    value: ir.Value = main.regions[0].blocks[0].arguments[i]
    return value


X, Y = (Tensor(_argument(i), ((COLUMN,),)) for i in (0, 1))
R = Tensor(_argument(2), ())
M = Tensor(_argument(3), ((COLUMN,),), boolean=True)
ATOMS = (X, Y, R, M)

Numbers = Mapping[Atom, np.ndarray]


def value(polynomial: Polynomial, numbers: Numbers) -> np.ndarray:
    parts = [coefficient * _product(monomial, numbers) for monomial, coefficient in polynomial.terms.items()]
    return sum(parts, np.zeros(COUNT))


def _product(monomial: Monomial, numbers: Numbers) -> np.ndarray:
    factors = [_atom(atom, numbers) ** float(exponent) for atom, exponent in monomial]
    return np.asarray(np.prod([np.ones(COUNT), *factors], axis=0))


def _atom(atom: Atom, numbers: Numbers) -> np.ndarray:
    return np.full(COUNT, _product(atom.product, numbers).sum()) if isinstance(atom, Total) else numbers[atom]


coefficients = st.sampled_from([-2.0, -1.0, -0.5, 0.5, 1.0, 3.0])
leaves = st.one_of(coefficients.map(Polynomial.constant), st.sampled_from(ATOMS).map(Polynomial.of))


def _combined(inner: st.SearchStrategy[Polynomial]) -> st.SearchStrategy[Polynomial]:
    return st.one_of(
        st.builds(lambda a, b: a + b, inner, inner),
        st.builds(lambda a, b: a - b, inner, inner),
        st.builds(lambda a, b: a * b, inner, inner),
        inner.map(lambda a: a.total(SPACE, (COLUMN,))),
    )


polynomials = st.recursive(leaves, _combined, max_leaves=4)


@st.composite
def assignments(draw: st.DrawFn) -> Numbers:
    rng = np.random.default_rng(draw(st.integers(0, 1000)))
    found: dict[Atom, np.ndarray] = {atom: rng.uniform(0.5, 1.5, COUNT) for atom in (X, Y)}
    return found | {R: np.full(COUNT, rng.uniform(0.5, 1.5)), M: rng.integers(0, 2, COUNT).astype(float)}


def close(a: np.ndarray, b: np.ndarray) -> None:
    np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-6 * max(1.0, np.abs(a).max()))


@given(polynomials, polynomials, assignments())
def test_operations_are_those_of_the_numbers(a: Polynomial, b: Polynomial, numbers: Numbers) -> None:
    close(value(a + b, numbers), value(a, numbers) + value(b, numbers))
    close(value(a - b, numbers), value(a, numbers) - value(b, numbers))
    close(value(a * b, numbers), value(a, numbers) * value(b, numbers))
    close(value(a.scaled(-3.0), numbers), -3 * value(a, numbers))


@given(polynomials, assignments())
def test_a_total_is_the_sum_along_the_axis(a: Polynomial, numbers: Numbers) -> None:
    close(value(a.total(SPACE, (COLUMN,)), numbers), np.full(COUNT, value(a, numbers).sum()))


@given(polynomials, polynomials, polynomials)
def test_laws_of_a_ring_hold_in_the_normal_form(a: Polynomial, b: Polynomial, c: Polynomial) -> None:
    for left, right in [(a + b, b + a), (a * b, b * a), ((a + b) + c, a + (b + c)), (a * (b + c), a * b + a * c)]:
        assert left.terms.keys() == right.terms.keys()
        assert not left.terms or left.ratio_to(right) == pytest.approx(1.0)
    assert not (a - a).terms
    assert (a * Polynomial.constant(1.0)).terms == a.terms
    assert not (a * Polynomial.constant(0.0)).terms


@given(polynomials)
def test_a_boolean_equals_its_powers(a: Polynomial) -> None:
    chosen = Polynomial.of(M)
    once = a * chosen
    assert (once * chosen).terms == once.terms
    assert not (once * (Polynomial.constant(1.0) - chosen)).terms


@given(coefficients, st.integers(1, 3), st.integers(0, 2), assignments())
def test_a_reciprocal_of_one_term(coefficient: float, i: int, j: int, numbers: Numbers) -> None:
    term = Polynomial.constant(coefficient)
    for atom, exponent in ((X, i), (R, j)):
        for _ in range(exponent):
            term = term * Polynomial.of(atom)
    close(value(term.reciprocal(), numbers), 1 / value(term, numbers))
    assert (term * term.reciprocal()).ratio_to(Polynomial.constant(1.0)) == pytest.approx(1.0)


@pytest.mark.parametrize(
    "refused",
    [Polynomial({}), Polynomial.of(X) + Polynomial.of(Y), Polynomial.of(M), Polynomial.of(X) * Polynomial.of(M)],
    ids=["zero", "two terms", "a boolean", "a product with a boolean"],
)
def test_no_other_reciprocal(refused: Polynomial) -> None:
    with pytest.raises(NotPolynomial):
        refused.reciprocal()


def test_what_does_not_vary_is_a_factor_of_the_total() -> None:
    x, r = Polynomial.of(X), Polynomial.of(R)
    total = x.total(SPACE, (COLUMN,))
    assert (r * x).total(SPACE, (COLUMN,)).terms == (r * total).terms
    assert (total * x).total(SPACE, (COLUMN,)).terms == (total * total).terms
    assert r.total(SPACE, (COLUMN,)).terms == r.scaled(COUNT).terms
    assert (x * total.reciprocal()).total(SPACE, (COLUMN,)).terms == Polynomial.constant(1.0).terms


def test_a_ratio_is_one_number_for_all_terms() -> None:
    x, y = Polynomial.of(X), Polynomial.of(Y)
    assert (x + y).scaled(-2.5).ratio_to(x + y) == -2.5
    assert (x + y.scaled(2.0)).ratio_to(x + y) is None
    assert x.ratio_to(x + y) is None
    assert Polynomial({}).ratio_to(Polynomial({})) is None


def test_views_that_become_one_add_up() -> None:
    """An axis may be split between two readings of one tensor."""
    whole, split = Polynomial.of(X), Polynomial.of(Tensor(X.value, ((1, 2),)))

    def merged(polynomial: Polynomial) -> Polynomial:
        return polynomial.mapped(lambda view: ((1, 2),))

    assert not merged(whole - split).terms
    assert merged(whole + split).terms == split.scaled(2.0).terms
    assert merged(whole * split).terms == (split * split).terms


def test_long_expressions_are_given_up() -> None:
    def sum_of(tensors: Iterable[Tensor]) -> Polynomial:
        return sum(map(Polynomial.of, tensors), Polynomial({}))

    assert len(sum_of(Tensor(X.value, ((i,),)) for i in range(10)).terms) == 10
    with pytest.raises(NotPolynomial):
        sum_of(Tensor(X.value, ((i,),)) for i in range(100))


def test_a_sum_of_sums_is_one_sum() -> None:
    u = Polynomial.of(Tensor(X.value, ((COLUMN,), (ROW,))))
    row = Polynomial.of(Tensor(Y.value, ((ROW,),)))
    once = (u * row).total(SPACE, (COLUMN, ROW))
    assert (u.total(SPACE, (COLUMN,)) * row).total(SPACE, (ROW,)).terms == once.terms
    assert (u * row).total(SPACE, (ROW,)).total(SPACE, (COLUMN,)).terms == once.terms


def test_an_axis_of_an_inner_sum_is_not_taken_for_one_outside() -> None:
    """Σ_r u(c, r) Σ_c u(c, r) is no sum over both: outside of the inner sum c is free."""
    u = Polynomial.of(Tensor(X.value, ((COLUMN,), (ROW,))))
    ((monomial, _),) = (u * u.total(SPACE, (COLUMN,))).total(SPACE, (ROW,)).terms.items()
    ((atom, _),) = monomial
    assert isinstance(atom, Total)
    assert atom.summed == {ROW}
    assert atom.axes(SPACE) == {COLUMN}
