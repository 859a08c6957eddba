"""Chains of functions: equal segments, and those that a budget asks for."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import zenith_mlir as zenith
from zenith_mlir.errors import OptionError
from zenith_mlir.remat.solve import Infeasible

COUNT = 8
W = np.random.default_rng(0).normal(size=(COUNT, 16, 16)).astype("float32") / 8
X = np.ones((256, 16), "float32")


def layer(w):
    return lambda x: {"h": x["h"] + jnp.tanh(jnp.sin(x["h"] @ w) @ w)}


def loss(**options):
    def of(ws, x):
        functions = [layer(w) for w in ws]
        if options:
            return (zenith.checkpoint_sequential(functions, **options)({"h": x})["h"] ** 2).sum()
        y = {"h": x}
        for function in functions:
            y = function(y)
        return (y["h"] ** 2).sum()

    return of


def products(f):
    """How many matrix products a gradient has."""
    return str(jax.make_jaxpr(jax.grad(f))(W, X)).count("dot_general[")


def temporaries(f):
    compiled = jax.jit(jax.grad(f), compiler_options={"xla_backend_optimization_level": 0}).lower(W, X).compile()
    return compiled(W, X), compiled.memory_analysis().temp_size_in_bytes


# Two of a layer's forward, four of its backward; the gradient of the first input is not asked for.
PLAIN = COUNT * 6 - 1


def test_segments():
    assert products(loss()) == PLAIN
    # Every layer runs once more.
    for options in ({"segments": 2}, {"segments": 8}, {"segments": None, "prevent_cse": False}):
        assert products(loss(**options)) == PLAIN + COUNT * 2
    equations = jax.make_jaxpr(loss(segments=3))(W, X).jaxpr.eqns
    assert sum("policy" in eqn.params for eqn in equations) == 3


def test_a_budget_is_met_and_used():
    gradient, plain = temporaries(loss())
    tight, small = temporaries(loss(budget="40%"))
    np.testing.assert_allclose(tight, gradient, rtol=1e-4, atol=1e-5)
    assert small < 0.6 * plain
    counts = [products(loss(budget=budget)) for budget in ("25%", "50%", "75%", "100%")]
    assert counts == sorted(counts, reverse=True)
    assert counts[-1] == PLAIN
    # With this little memory layers run more than twice.
    assert counts[0] > PLAIN + COUNT * 2


def test_a_budget_that_cannot_be_met():
    with pytest.raises(Infeasible, match="of solver chain needs") as error:
        jax.eval_shape(loss(budget="1kB"), W, X)
    jax.eval_shape(loss(budget=error.value.minimum * 1.02 // 1), W, X)


def test_mistakes():
    with pytest.raises(OptionError, match="one function or more"):
        zenith.checkpoint_sequential([])
    with pytest.raises(OptionError, match="not both"):
        zenith.checkpoint_sequential([jnp.sin], budget="50%", segments=1)
    with pytest.raises(OptionError, match="from 1 to that of the functions, 2, not 3"):
        zenith.checkpoint_sequential([jnp.sin, jnp.cos], segments=3)
