"""What the backward of an equation uses, read from its derivative."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from zenith_mlir.remat.lines import Program
from zenith_mlir.remat.needs import Needs, NeedsOf

X = np.ones((2, 4), "float32")
MASK = np.ones((2, 4), bool)


def last_needs(f, *args, still=()):
    """Of the last line of f, where what is of inexact type varies, save the arguments in `still`."""
    program = Program.of(jax.make_jaxpr(f)(*args))
    line = program.lines[-1]
    return NeedsOf()(line, [varies(program, x) and x not in still for x in line.equation.operands])


def varies(program, x):
    return x is not None and np.issubdtype(program.types[x].dtype, np.inexact)


@pytest.mark.parametrize(
    ("f", "args", "operands", "results", "derived"),
    [
        (jnp.add, (X, X), (), (), False),
        (jnp.negative, (X,), (), (), False),
        (jnp.multiply, (X, X), (0, 1), (), False),
        (jnp.exp, (X,), (), (0,), False),
        (jnp.tanh, (X,), (), (0,), True),
        (jnp.sin, (X,), (0,), (), True),
        (lambda x, y: x @ y.T, (X, X[0]), (0, 1), (), False),
        (lambda x: x.sum(), (X,), (), (), False),
        (lambda x: x.reshape(4, 2), (X,), (), (), False),
        (jax.lax.stop_gradient, (X,), (), (), False),
        (lambda x: jax.lax.select_n(MASK, x, 2 * x), (X,), (0,), (), False),
    ],
)
def test_needs(f, args, operands, results, derived):
    needs = last_needs(f, *args)
    assert (needs.operands, needs.results, needs.derived, needs.opaque) == (operands, results, derived, False)


def test_only_what_varies_counts():
    assert last_needs(jnp.multiply, X, X, still=(0,)).operands == (0,)
    assert last_needs(jnp.multiply, X, X, still=(0, 1)) == Needs(varies=(False,))
    assert last_needs(lambda x: jnp.argmax(x), X).varies == (False,)


def test_custom_derivatives():
    @jax.custom_jvp
    def f(x):
        return jnp.sin(x) * 2

    @f.defjvp
    def _(primals, tangents):
        y = f(primals[0])
        return y, y * tangents[0]

    assert last_needs(f, X).results == (0,)
    g = jax.custom_vjp(lambda x: jnp.sin(x))
    g.defvjp(lambda x: (jnp.sin(x), (jnp.cos(x), x)), lambda kept, ct: (kept[0] * kept[1] * ct,))
    needs = last_needs(g, X)
    # The cosine has no name outside; x is an operand.
    assert (needs.opaque, needs.operands, needs.hidden) == (True, (0,), X.nbytes)


def test_loops_keep_stacks_of_their_own():
    needs = last_needs(lambda x: jax.lax.scan(lambda x, _: (jnp.sin(x), None), x, length=5)[0], X)
    assert needs.opaque
    assert needs.hidden == 5 * X.nbytes


def test_equal_lines_are_asked_once(monkeypatch):
    program = Program.of(jax.make_jaxpr(lambda x: jnp.sin(jnp.sin(jnp.sin(x))))(X))
    traced = []
    original = jax.make_jaxpr
    monkeypatch.setattr(jax, "make_jaxpr", lambda *args, **kw: traced.append(1) or original(*args, **kw))
    needs_of = NeedsOf()
    assert len({needs_of(line, [True]) for line in program.lines}) == 1
    assert len(traced) == 1
