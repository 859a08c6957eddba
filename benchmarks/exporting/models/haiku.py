"""Haiku: our exporter gets what hk.transform gives, the peer its apply."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import haiku as hk
import jax
from numpy.typing import NDArray

from exporting.models.model import CLASSES, VOCABULARY, Built, Model, normal, tokens


def mlp(x: jax.Array) -> jax.Array:
    return hk.nets.MLP([256, 512, CLASSES], activation=jax.nn.gelu)(x)


def conv_net(x: jax.Array) -> jax.Array:
    x = hk.max_pool(jax.nn.relu(hk.Conv2D(32, 3)(x)), (1, 2, 2, 1), (1, 2, 2, 1), "VALID")
    x = jax.nn.relu(hk.GroupNorm(8)(hk.Conv2D(64, 3)(x)))
    return hk.Linear(CLASSES)(x.mean((1, 2)))


def encoder(ids: jax.Array) -> jax.Array:
    x = hk.Embed(VOCABULARY, 128)(ids)
    for _ in range(2):
        y = hk.LayerNorm(-1, True, True)(x)
        attention = hk.MultiHeadAttention(4, 32, w_init=hk.initializers.VarianceScaling())
        x = x + attention(y, y, y)
        x = x + hk.nets.MLP([512, 128], activation=jax.nn.gelu)(hk.LayerNorm(-1, True, True)(x))
    return hk.Linear(VOCABULARY)(x)


def model(name: str, call: Callable[..., Any], arguments: Callable[[], NDArray[Any]]) -> Model:
    def build() -> Built:
        transformed, given = hk.without_apply_rng(hk.transform(call)), arguments()
        params = jax.jit(transformed.init)(jax.random.key(0), given)
        return Built(transformed, lambda x: transformed.apply(params, x), (given,), params)

    return Model(f"Haiku {name}", build)


MODELS = [
    model("MLP", mlp, lambda: normal(32, 64)),
    model("conv net", conv_net, lambda: normal(8, 32, 32, 3)),
    model("encoder", encoder, lambda: tokens(2, 64)),
]
