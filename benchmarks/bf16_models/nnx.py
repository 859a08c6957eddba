"""Flax NNX, dtype=bfloat16."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from bf16_models.model import CLASSES, VOCABULARY, Apply, Model, images, tokens


class Block(nnx.Module):
    def __init__(self, width: int, **of_layers: Any):
        self.norms = nnx.List([nnx.LayerNorm(width, **of_layers) for _ in range(2)])
        self.attention = nnx.MultiHeadAttention(4, width, decode=False, **of_layers)
        self.up = nnx.Linear(width, 4 * width, **of_layers)
        self.down = nnx.Linear(4 * width, width, **of_layers)

    def __call__(self, x: jax.Array, mask: jax.Array) -> jax.Array:
        x = x + self.attention(self.norms[0](x), mask=mask)
        return x + self.down(nnx.gelu(self.up(self.norms[1](x))))


class Decoder(nnx.Module):
    def __init__(self, width: int = 64, depth: int = 2, **of_layers: Any):
        self.embed = nnx.Embed(VOCABULARY, width, **of_layers)
        self.blocks = nnx.List([Block(width, **of_layers) for _ in range(depth)])
        self.norm = nnx.LayerNorm(width, **of_layers)
        self.head = nnx.Linear(width, VOCABULARY, **of_layers)

    def __call__(self, ids: jax.Array) -> jax.Array:
        x, mask = self.embed(ids), nnx.make_causal_mask(ids)
        for block in self.blocks:
            x = block(x, mask)
        return self.head(self.norm(x))


class ConvNet(nnx.Module):
    def __init__(self, **of_layers: Any):
        widths = (3, 16, 32, 64)
        self.convs = nnx.List([nnx.Conv(a, b, (3, 3), strides=2, **of_layers) for a, b in pairwise(widths)])
        self.norms = nnx.List([nnx.GroupNorm(width, num_groups=4, **of_layers) for width in widths[1:]])
        self.head = nnx.Linear(widths[-1], CLASSES, **of_layers)

    def __call__(self, x: jax.Array) -> jax.Array:
        for conv, norm in zip(self.convs, self.norms, strict=True):
            x = nnx.silu(norm(conv(x)))
        return self.head(x.mean((1, 2)))


def model(name: str, kind: Any, inputs: Any) -> Model:
    def make(dtype: str) -> Any:
        return kind(dtype=jnp.dtype(dtype), rngs=nnx.Rngs(0))

    def build(dtype: str) -> Apply:
        graph, state = nnx.split(nnx.eval_shape(lambda: make(dtype)))
        kinds = jax.tree.structure(state)
        return lambda leaves, x: nnx.merge(graph, jax.tree.unflatten(kinds, leaves))(x)

    def parameters() -> list[jax.Array]:
        return jax.tree.leaves(nnx.state(nnx.jit(lambda: make("float32"))()))

    return Model(f"NNX {name}", build, parameters, inputs)


MODELS = [model("decoder", Decoder, tokens(4, 32)), model("conv net", ConvNet, images(8, 8))]
