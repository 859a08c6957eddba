"""zenith.checkpoint on the modules of Flax and Equinox, live."""

from __future__ import annotations

import equinox as eqx
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import zenith_mlir as zenith

X = np.random.default_rng(0).normal(size=(4, 8)).astype("float32")
KEY = jax.random.key(0)


class Linen(nn.Module):
    @nn.compact
    def __call__(self, x, train):
        for _ in range(2):
            x = x + nn.Dropout(0.5, deterministic=not train)(nn.gelu(nn.Dense(8)(nn.LayerNorm()(x))))
        return x


class Nnx(nnx.Module):
    def __init__(self, rngs):
        self.norm = nnx.LayerNorm(8, rngs=rngs)
        self.linear = nnx.Linear(8, 8, rngs=rngs)

    def __call__(self, x):
        return x + nnx.gelu(self.linear(self.norm(x)))


def linen(wrap):
    model = Linen()
    variables = model.init(KEY, X, False)

    def loss(variables, x, train):
        return (model.apply(variables, x, train, rngs={"dropout": KEY}) ** 2).sum()

    return jax.jit(jax.grad(wrap(loss, static_argnums=2)), static_argnums=2)(variables, X, True)


def nnx_split(wrap):
    graph, state = nnx.split(Nnx(nnx.Rngs(0)))
    return jax.jit(jax.grad(wrap(lambda state, x: (nnx.merge(graph, state)(x) ** 2).sum())))(state, X)


def nnx_closed_over(wrap):
    graph, state = nnx.split(Nnx(nnx.Rngs(0)))

    def loss(state, x):
        model = nnx.merge(graph, state)
        return (wrap(lambda x: model(x))(x) ** 2).sum()

    return jax.jit(jax.grad(loss))(state, X)


def equinox(wrap):
    """Activations are leaves of the module, and no arrays."""
    model = eqx.nn.MLP(8, 8, 16, 2, activation=jax.nn.silu, key=KEY)
    return eqx.filter_jit(eqx.filter_grad(wrap(lambda model, x: (jax.vmap(model)(x) ** 2).sum())))(model, X)


@pytest.mark.parametrize("gradient", [linen, nnx_split, nnx_closed_over, equinox])
def test_gradients_are_those_without(gradient):
    def checkpointed(f, **options):
        return zenith.checkpoint(f, budget="30%", **options)

    plain, mine = (jax.tree.leaves(gradient(wrap)) for wrap in (lambda f, **_: f, checkpointed))
    assert len(plain) == len(mine) > 0
    for p, m in zip(plain, mine, strict=True):
        np.testing.assert_allclose(jnp.asarray(m), p, rtol=1e-4, atol=1e-5 * float(jnp.abs(p).max()))
