"""Flax Linen."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import NDArray

from exporting.models.model import CLASSES, VOCABULARY, Built, Model, normal, positive, tokens


class Mlp(nn.Module):
    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        for width in (256, 512, 256):
            x = nn.gelu(nn.LayerNorm()(nn.Dense(width)(x)))
        return nn.Dense(CLASSES)(x)


class Cnn(nn.Module):
    """Batch normalization by running averages, both kinds of pools."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        x = nn.relu(norm()(nn.Conv(32, (3, 3), use_bias=False)(x)))
        x = nn.max_pool(x, window_shape=(2, 2), strides=(2, 2))
        x = nn.relu(norm()(nn.Conv(64, (3, 3), use_bias=False)(x)))
        x = nn.avg_pool(x, window_shape=(2, 2), strides=(2, 2))
        x = nn.relu(nn.Dense(128)(x.reshape(x.shape[0], -1)))
        return nn.Dense(CLASSES)(x)


class ResNet(nn.Module):
    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        x = nn.relu(norm()(nn.Conv(32, (3, 3), use_bias=False)(x)))
        for width, stride in ((32, 1), (64, 2), (128, 2)):
            y = nn.relu(norm()(nn.Conv(width, (3, 3), (stride, stride), use_bias=False)(x)))
            y = norm()(nn.Conv(width, (3, 3), use_bias=False)(y))
            skip = norm()(nn.Conv(width, (1, 1), (stride, stride), use_bias=False)(x))
            x = nn.relu(y + skip)
        return nn.Dense(CLASSES)(x.mean((1, 2)))


def norm() -> nn.BatchNorm:
    return nn.BatchNorm(use_running_average=True)


class Blocks(nn.Module):
    """Pre-norm transformer blocks."""

    depth: int = 3
    width: int = 128

    @nn.compact
    def __call__(self, x: jax.Array, mask: jax.Array | None = None) -> jax.Array:
        for _ in range(self.depth):
            y = nn.LayerNorm()(x)
            x = x + nn.MultiHeadDotProductAttention(4)(y, mask=mask)
            y = nn.gelu(nn.Dense(4 * self.width)(nn.LayerNorm()(x)))
            x = x + nn.Dense(self.width)(y)
        return nn.LayerNorm()(x)


class Encoder(nn.Module):
    @nn.compact
    def __call__(self, ids: jax.Array) -> jax.Array:
        places = self.param("places", nn.initializers.normal(0.02), (ids.shape[1], 128))
        return nn.Dense(VOCABULARY)(Blocks()(nn.Embed(VOCABULARY, 128)(ids) + places))


class CausalDecoder(nn.Module):
    @nn.compact
    def __call__(self, ids: jax.Array) -> jax.Array:
        return nn.Dense(VOCABULARY)(Blocks()(nn.Embed(VOCABULARY, 128)(ids), nn.make_causal_mask(ids)))


class Vit(nn.Module):
    @nn.compact
    def __call__(self, images: jax.Array) -> jax.Array:
        x = nn.Conv(128, (4, 4), (4, 4), padding="VALID")(images)
        x = x.reshape(x.shape[0], -1, 128)
        first = self.param("first", nn.initializers.normal(0.02), (1, 1, 128))
        x = jnp.concatenate([jnp.broadcast_to(first, (x.shape[0], 1, 128)), x], 1)
        x = x + self.param("places", nn.initializers.normal(0.02), (1, x.shape[1], 128))
        return nn.Dense(CLASSES)(Blocks()(x)[:, 0])


class DecodeStep(nn.Module):
    """One token: new keys and values are written at `position` of the caches [layer, batch, place, head, size]."""

    depth: int = 3

    @nn.compact
    def __call__(self, ids: jax.Array, keys: jax.Array, values: jax.Array, position: jax.Array) -> Any:
        x = nn.Embed(VOCABULARY, 128)(ids)
        seen = jnp.arange(keys.shape[2]) <= position
        for layer in range(self.depth):
            y = nn.LayerNorm()(x)
            q, k, v = (nn.DenseGeneral((4, 32))(y) for _ in range(3))
            keys = jax.lax.dynamic_update_slice(keys, k[None], (layer, 0, position, 0, 0))
            values = jax.lax.dynamic_update_slice(values, v[None], (layer, 0, position, 0, 0))
            y = nn.dot_product_attention(q, keys[layer], values[layer], mask=seen[None, None, None])
            x = x + nn.DenseGeneral(128, (-2, -1))(y)
            x = x + nn.Dense(128)(nn.gelu(nn.Dense(512)(nn.LayerNorm()(x))))
        return nn.Dense(VOCABULARY)(nn.LayerNorm()(x)), keys, values


def model(name: str, module: nn.Module, arguments: Callable[[], tuple[NDArray[Any], ...]]) -> Model:
    def build() -> Built:
        given = arguments()
        variables = trained(jax.jit(module.init)(jax.random.key(0), *given))
        return Built(module, lambda *args: module.apply(variables, *args), given, variables)

    return Model(f"Linen {name}", build)


def trained(variables: Any) -> Any:
    """With running averages that are not those of a new model."""
    seeds = iter(range(1000))

    def change(path: Any, leaf: jax.Array) -> jax.Array:
        last = path[-1].key
        changed = {"mean": normal, "var": positive}.get(last) if path[0].key == "batch_stats" else None
        return jnp.asarray(changed(*leaf.shape, seed=next(seeds))) if changed else leaf

    return jax.tree_util.tree_map_with_path(change, variables)


def caches(*shape: int) -> tuple[NDArray[Any], ...]:
    return tokens(shape[1], 1), normal(*shape, seed=1), normal(*shape, seed=2), np.int32(17)  # type: ignore[return-value]


MODELS = [
    model("MLP", Mlp(), lambda: (normal(32, 64),)),
    model("CNN", Cnn(), lambda: (normal(8, 32, 32, 3),)),
    model("ResNet", ResNet(), lambda: (normal(4, 32, 32, 3),)),
    model("encoder", Encoder(), lambda: (tokens(2, 64),)),
    model("causal decoder", CausalDecoder(), lambda: (tokens(2, 64),)),
    model("decode step", DecodeStep(), lambda: caches(3, 2, 64, 4, 32)),
    model("ViT", Vit(), lambda: (normal(2, 32, 32, 3),)),
]
