"""Expressions of symbolic dimensions agree with JAX's own, in value and in spelling."""

import operator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax import export

from zenith_mlir.errors import ZenithError
from zenith_mlir.onnx.dynamic.expr import Expr, floordiv, maximum, minimum, mod, parse

b, s = Expr.symbol("b"), Expr.symbol("s")


@pytest.mark.parametrize(
    "text",
    [
        "s", "2*b", "s + 1", "b - 1", "- b", "s + past + b", "2*b*s + s - b + 2", "s^2", "floordiv(s, 2) + 1",
        "floordiv(s + 1, 2) - s", "mod(s, 4)", "mod(- s, 4)", "3*b*floordiv(s, 2)", "max(s - 3, 0)", "2*min(s, 5)",
        "- floordiv(- s, 2)",
    ],
)  # fmt: skip
def test_text_is_read_and_written_as_jax_writes_it(text):
    (theirs,) = export.symbolic_shape(text.replace("^2", "*s"))
    assert str(theirs) == text
    assert str(parse(text)) == text


def _apply_both(case):
    operation, (x, x_value), (y, y_value) = case
    return operation(x, y), operation(x_value, y_value)


def _divide_both(case):
    which, (x, value), k = case
    ours = (floordiv, mod, minimum, maximum)[which]
    return ours(x, Expr.number(k)), (operator.floordiv, operator.mod, min, max)[which](value, k)


_SYMBOLS = {"b": 3, "s": 7}
_leaves = st.one_of(st.integers(-5, 5).map(Expr.number), st.sampled_from([b, s]))
_exprs = st.recursive(
    _leaves.map(lambda expr: (expr, expr.evaluate(_SYMBOLS))),
    lambda inner: st.one_of(
        st.tuples(st.sampled_from([operator.add, operator.sub, operator.mul]), inner, inner).map(_apply_both),
        st.tuples(st.sampled_from([0, 1, 2, 3]), inner, st.integers(1, 6)).map(_divide_both),
    ),
    max_leaves=8,
)


@settings(max_examples=60, deadline=None)
@given(_exprs)
def test_arithmetic_agrees_with_that_of_integers(case):
    expr, value = case
    assert expr.evaluate(_SYMBOLS) == value
    assert parse(str(expr)).evaluate(_SYMBOLS) == value
    low, high = expr.bounds
    assert low <= value <= high


def test_equal_polynomials_are_equal():
    assert (s + 1) * (b - 1) == b * s - s + b - 1
    assert hash(s + s) == hash(2 * s)
    assert floordiv(6 * s + 4, Expr.number(2)) == 3 * s + 2
    assert floordiv(b * s * 3, s) == 3 * b
    assert maximum(s + 2, s) == s + 2
    assert floordiv(s, Expr.number(2)) != floordiv(s + 1, Expr.number(2))


def test_what_cannot_be_read_is_refused():
    for text in ("s +", "s / 2", "foo(s)", "s.x", "floordiv(s, 0)"):
        with pytest.raises(ZenithError, match=r"dimension|divides by zero"):
            parse(text)
