"""Flax NNX: both exporters get the module itself."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from numpy.typing import NDArray

from exporting.models.linen import caches
from exporting.models.model import CLASSES, VOCABULARY, Built, Model, normal, positive, tokens


class Mlp(nnx.Module):
    def __init__(self, rngs: nnx.Rngs) -> None:
        self.first, self.last = nnx.Linear(64, 512, rngs=rngs), nnx.Linear(512, CLASSES, rngs=rngs)
        self.norm, self.dropout = nnx.LayerNorm(512, rngs=rngs), nnx.Dropout(0.1, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.last(self.dropout(nnx.gelu(self.norm(self.first(x)))))


class Cnn(nnx.Module):
    def __init__(self, rngs: nnx.Rngs) -> None:
        self.first, self.second = nnx.Conv(3, 32, (3, 3), rngs=rngs), nnx.Conv(32, 64, (3, 3), rngs=rngs)
        self.norm, self.last = nnx.BatchNorm(32, rngs=rngs), nnx.Linear(64 * 8 * 8, CLASSES, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        x = nnx.max_pool(nnx.relu(self.norm(self.first(x))), window_shape=(2, 2), strides=(2, 2))
        x = nnx.avg_pool(nnx.relu(self.second(x)), window_shape=(2, 2), strides=(2, 2))
        return self.last(x.reshape(x.shape[0], -1))


class Residual(nnx.Module):
    def __init__(self, width: int, wider: int, stride: int, rngs: nnx.Rngs) -> None:
        strides = (stride, stride)
        self.first = nnx.Conv(width, wider, (3, 3), strides, use_bias=False, rngs=rngs)
        self.second = nnx.Conv(wider, wider, (3, 3), use_bias=False, rngs=rngs)
        self.skip = nnx.Conv(width, wider, (1, 1), strides, use_bias=False, rngs=rngs)
        self.norms = nnx.List([nnx.BatchNorm(wider, rngs=rngs) for _ in range(3)])

    def __call__(self, x: jax.Array) -> jax.Array:
        y = nnx.relu(self.norms[0](self.first(x)))
        return nnx.relu(self.norms[1](self.second(y)) + self.norms[2](self.skip(x)))


class ResNet(nnx.Module):
    def __init__(self, rngs: nnx.Rngs) -> None:
        self.first = nnx.Conv(3, 32, (3, 3), rngs=rngs)
        self.blocks = nnx.Sequential(*(Residual(*each, rngs) for each in ((32, 32, 1), (32, 64, 2), (64, 128, 2))))
        self.last = nnx.Linear(128, CLASSES, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.last(self.blocks(nnx.relu(self.first(x))).mean((1, 2)))


class Block(nnx.Module):
    def __init__(self, rngs: nnx.Rngs, width: int = 128) -> None:
        self.norms = nnx.List([nnx.LayerNorm(width, rngs=rngs) for _ in range(2)])
        self.attention = nnx.MultiHeadAttention(4, width, decode=False, rngs=rngs)
        self.wide, self.narrow = nnx.Linear(width, 4 * width, rngs=rngs), nnx.Linear(4 * width, width, rngs=rngs)

    def __call__(self, x: jax.Array, mask: jax.Array | None = None) -> jax.Array:
        x = x + self.attention(self.norms[0](x), mask=mask)
        return x + self.narrow(nnx.gelu(self.wide(self.norms[1](x))))


class Transformer(nnx.Module):
    def __init__(self, rngs: nnx.Rngs, causal: bool = False) -> None:
        self.embed, self.causal = nnx.Embed(VOCABULARY, 128, rngs=rngs), causal
        self.blocks = nnx.List([Block(rngs) for _ in range(3)])
        self.norm, self.last = nnx.LayerNorm(128, rngs=rngs), nnx.Linear(128, VOCABULARY, rngs=rngs)

    def __call__(self, ids: jax.Array) -> jax.Array:
        x, mask = self.embed(ids), nnx.make_causal_mask(ids) if self.causal else None
        for block in self.blocks:
            x = block(x, mask)
        return self.last(self.norm(x))


class Vit(nnx.Module):
    def __init__(self, rngs: nnx.Rngs) -> None:
        self.patches = nnx.Conv(3, 128, (4, 4), (4, 4), padding="VALID", rngs=rngs)
        self.first = nnx.Param(nnx.initializers.normal(0.02)(rngs.params(), (1, 1, 128)))
        self.places = nnx.Param(nnx.initializers.normal(0.02)(rngs.params(), (1, 65, 128)))
        self.blocks = nnx.List([Block(rngs) for _ in range(3)])
        self.norm, self.last = nnx.LayerNorm(128, rngs=rngs), nnx.Linear(128, CLASSES, rngs=rngs)

    def __call__(self, images: jax.Array) -> jax.Array:
        x = self.patches(images)
        x = x.reshape(x.shape[0], -1, 128)
        first = jnp.broadcast_to(self.first[...], (x.shape[0], 1, 128))
        x = jnp.concatenate([first, x], 1) + self.places[...]
        for block in self.blocks:
            x = block(x)
        return self.last(self.norm(x[:, 0]))


class DecodeStep(nnx.Module):
    """One token; see exporting/models/linen.py."""

    def __init__(self, rngs: nnx.Rngs, depth: int = 3) -> None:
        def linear(features: int, out: int) -> nnx.Linear:
            return nnx.Linear(features, out, rngs=rngs)

        def many(make: Callable[[], Any]) -> nnx.List[Any]:
            return nnx.List([make() for _ in range(depth)])

        self.embed, self.depth = nnx.Embed(VOCABULARY, 128, rngs=rngs), depth
        self.qkv, self.out = many(lambda: linear(128, 384)), many(lambda: linear(128, 128))
        self.wide, self.narrow = many(lambda: linear(128, 512)), many(lambda: linear(512, 128))
        self.before, self.between = (many(lambda: nnx.RMSNorm(128, rngs=rngs)) for _ in range(2))
        self.norm, self.last = nnx.RMSNorm(128, rngs=rngs), linear(128, VOCABULARY)

    def __call__(self, ids: jax.Array, keys: jax.Array, values: jax.Array, position: jax.Array) -> Any:
        x = self.embed(ids)
        seen = jnp.arange(keys.shape[2]) <= position
        for layer in range(self.depth):
            y = self.qkv[layer](self.before[layer](x))
            q, k, v = (part.reshape(*part.shape[:2], 4, 32) for part in jnp.split(y, 3, -1))
            keys = jax.lax.dynamic_update_slice(keys, k[None], (layer, 0, position, 0, 0))
            values = jax.lax.dynamic_update_slice(values, v[None], (layer, 0, position, 0, 0))
            y = nnx.dot_product_attention(q, keys[layer], values[layer], mask=seen[None, None, None])
            x = x + self.out[layer](y.reshape(x.shape))
            x = x + self.narrow[layer](nnx.silu(self.wide[layer](self.between[layer](x))))
        return self.last(self.norm(x)), keys, values


def model(
    name: str, kind: Callable[[nnx.Rngs], nnx.Module], arguments: Callable[[], tuple[NDArray[Any], ...]]
) -> Model:
    def build() -> Built:
        module = kind(nnx.Rngs(0))
        module.eval()
        norms = [each for _, each in nnx.iter_graph(module) if isinstance(each, nnx.BatchNorm)]
        for seed, norm in enumerate(norms):
            norm.mean[...] = jnp.asarray(normal(*norm.mean.shape, seed=seed))
            norm.var[...] = jnp.asarray(positive(*norm.var.shape, seed=seed))
        return Built(module, module, arguments())  # type: ignore[arg-type]

    return Model(f"NNX {name}", build)


MODELS = [
    model("MLP", Mlp, lambda: (normal(32, 64),)),
    model("CNN", Cnn, lambda: (normal(8, 32, 32, 3),)),
    model("ResNet", ResNet, lambda: (normal(4, 32, 32, 3),)),
    model("encoder", Transformer, lambda: (tokens(2, 64),)),
    model("causal decoder", lambda rngs: Transformer(rngs, causal=True), lambda: (tokens(2, 64),)),
    model("decode step", DecodeStep, lambda: caches(3, 2, 64, 4, 32)),
    model("ViT", Vit, lambda: (normal(2, 32, 32, 3),)),
]
