"""Haiku with policies of jmp: bfloat16, with norms in float32 as in Haiku's own examples."""

from __future__ import annotations

from typing import Any

import haiku as hk
import jax
import jmp
import numpy as np

from bf16_models.model import CLASSES, Apply, Model, images

PIXELS = images(8, 8)


class ConvNet(hk.Module):
    def __call__(self, x: jax.Array) -> jax.Array:
        for width in (16, 32, 64):
            x = hk.Conv2D(width, 3, stride=2)(x)
            x = jax.nn.relu(hk.LayerNorm(-1, True, True)(x))
        return hk.Linear(CLASSES)(x.mean((1, 2)))


def network(dtype: str) -> hk.Transformed:
    half = jmp.get_policy(f"params=float32,compute={dtype},output={dtype}")
    full = jmp.get_policy(f"params=float32,compute=float32,output={dtype}")

    def forward(x: jax.Array) -> jax.Array:
        hk.mixed_precision.set_policy(ConvNet, half)
        hk.mixed_precision.set_policy(hk.LayerNorm, full)
        return ConvNet()(x)

    return hk.without_apply_rng(hk.transform(forward))


def build(dtype: str) -> Apply:
    return network(dtype).apply


def parameters() -> Any:
    return jax.jit(network("float32").init)(jax.random.key(0), PIXELS(np.random.default_rng(0)))


MODELS = [Model("Haiku conv net", build, parameters, PIXELS)]
