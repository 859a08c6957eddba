"""Equinox: both exporters get the module, under jax.vmap where it takes one example."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from numpy.typing import NDArray

from exporting.models.model import CLASSES, Built, Model, normal


class Convolutions(eqx.Module):
    """NCHW, as Equinox has it."""

    layers: list[Any]
    last: eqx.nn.Linear

    def __init__(self, key: jax.Array) -> None:
        keys = jax.random.split(key, 3)
        self.layers = [
            eqx.nn.Conv2d(3, 32, 3, padding=1, key=keys[0]),
            jax.nn.relu,
            eqx.nn.MaxPool2d(2, 2),
            eqx.nn.Conv2d(32, 64, 3, padding=1, key=keys[1]),
            eqx.nn.GroupNorm(8, 64),
            jax.nn.silu,
            eqx.nn.AvgPool2d(2, 2),
        ]
        self.last = eqx.nn.Linear(64 * 8 * 8, CLASSES, key=keys[2])

    def __call__(self, x: jax.Array) -> jax.Array:
        for layer in self.layers:
            x = layer(x)
        return self.last(x.reshape(-1))


class Attention(eqx.Module):
    attention: eqx.nn.MultiheadAttention
    norm: eqx.nn.LayerNorm
    mlp: eqx.nn.MLP

    def __init__(self, key: jax.Array) -> None:
        first, second = jax.random.split(key)
        self.attention = eqx.nn.MultiheadAttention(4, 128, key=first)
        self.norm = eqx.nn.LayerNorm(128)
        self.mlp = eqx.nn.MLP(128, 128, 512, 1, jax.nn.gelu, key=second)

    def __call__(self, x: jax.Array) -> jax.Array:
        y = jax.vmap(self.norm)(x)
        x = x + self.attention(y, y, y)
        return x + jax.vmap(self.mlp)(jax.vmap(self.norm)(x))


class Gru(eqx.Module):
    """A loop over time."""

    cell: eqx.nn.GRUCell
    last: eqx.nn.Linear

    def __init__(self, key: jax.Array) -> None:
        first, second = jax.random.split(key)
        self.cell, self.last = eqx.nn.GRUCell(32, 128, key=first), eqx.nn.Linear(128, CLASSES, key=second)

    def __call__(self, x: jax.Array) -> jax.Array:
        state, _ = jax.lax.scan(lambda state, row: (self.cell(row, state), None), jnp.zeros(128), x)
        return self.last(state)


def model(name: str, kind: Callable[[jax.Array], Any], arguments: Callable[[], NDArray[Any]], mapped: bool) -> Model:
    def build() -> Built:
        module = kind(jax.random.key(0))
        call = jax.vmap(module) if mapped else module
        return Built(call, call, (arguments(),))

    return Model(f"Equinox {name}", build)


MODELS = [
    model("MLP", lambda key: eqx.nn.MLP(64, CLASSES, 512, 3, jax.nn.gelu, key=key), lambda: normal(32, 64), True),
    model("conv net", Convolutions, lambda: normal(8, 3, 32, 32), True),
    model("attention", Attention, lambda: normal(64, 128), False),
    model("GRU", Gru, lambda: normal(8, 32, 32), True),
]
