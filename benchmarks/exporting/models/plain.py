"""Plain jnp: functions of a dictionary of arrays."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from exporting.models.model import CLASSES, VOCABULARY, Built, Model, function, normal, tokens

Params = dict[str, Any]
NHWC = ("NHWC", "HWIO", "NHWC")


def dense(p: Params, name: str, x: jax.Array) -> jax.Array:
    return x @ p[f"{name}.w"] + p[f"{name}.b"]


def linear(*sizes: int, seed: int = 0) -> tuple[Any, Any]:
    return normal(*sizes, seed=seed) / sizes[0] ** 0.5, normal(sizes[-1], seed=seed + 1) / 10


def params(**layers: tuple[int, int]) -> Params:
    out: Params = {}
    for seed, (name, sizes) in enumerate(layers.items()):
        out[f"{name}.w"], out[f"{name}.b"] = linear(*sizes, seed=2 * seed)
    return out


def layer_norm(x: jax.Array) -> jax.Array:
    centered = x - x.mean(-1, keepdims=True)
    return centered * jax.lax.rsqrt(jnp.square(centered).mean(-1, keepdims=True) + 1e-5)


def rms_norm(x: jax.Array) -> jax.Array:
    return x * jax.lax.rsqrt(jnp.mean(x * x, -1, keepdims=True) + 1e-6)


def transformer(p: Params, ids: jax.Array) -> jax.Array:
    """Causal attention by einsum, tanh GELU."""
    x = p["embed"][ids]
    mask = jnp.tril(jnp.ones((ids.shape[1], ids.shape[1]), bool))
    for layer in p["layers"]:
        q, k, v = (
            dense(layer, name, layer_norm(x)).reshape(*x.shape[:2], 4, 32).transpose(0, 2, 1, 3) for name in "qkv"
        )
        scores = jnp.where(mask, jnp.einsum("bhqd,bhkd->bhqk", q, k) / 32**0.5, -1e9)
        y = jnp.einsum("bhqk,bhkd->bhqd", jax.nn.softmax(scores), v)
        x = x + dense(layer, "out", y.transpose(0, 2, 1, 3).reshape(x.shape))
        x = x + dense(layer, "narrow", jax.nn.gelu(dense(layer, "wide", layer_norm(x))))
    return layer_norm(x) @ p["embed"].T


def llama_step(p: Params, ids: jax.Array, caches: Any, position: jax.Array) -> Any:
    """One token of a decoder with RMSNorm, rotary embeddings, grouped queries, SwiGLU and a cache a layer."""
    x = p["embed"][ids]
    fresh = []
    for layer, (keys, values) in zip(p["layers"], caches, strict=True):
        y = rms_norm(x)
        q, k, v = (dense(layer, name, y).reshape(*x.shape[:2], -1, 32) for name in "qkv")
        keys = jax.lax.dynamic_update_slice(keys, rotate(k, position), (0, position, 0, 0))
        values = jax.lax.dynamic_update_slice(values, v, (0, position, 0, 0))
        k, v = (jnp.repeat(each, 2, 2) for each in (keys, values))
        scores = jnp.einsum("bqhd,bkhd->bhqk", rotate(q, position), k) / 32**0.5
        scores = jnp.where(jnp.arange(k.shape[1]) <= position, scores, -jnp.inf)
        y = jnp.einsum("bhqk,bkhd->bqhd", jax.nn.softmax(scores), v)
        x = x + dense(layer, "out", y.reshape(x.shape))
        y = rms_norm(x)
        x = x + dense(layer, "narrow", jax.nn.silu(dense(layer, "gate", y)) * dense(layer, "wide", y))
        fresh.append((keys, values))
    return rms_norm(x) @ p["embed"].T, fresh


def rotate(x: jax.Array, position: jax.Array) -> jax.Array:
    angles = position * 10000.0 ** (-jnp.arange(0, 16) / 16)
    first, second = jnp.split(x, 2, -1)
    sine, cosine = jnp.sin(angles), jnp.cos(angles)
    return jnp.concatenate([first * cosine - second * sine, first * sine + second * cosine], -1)


def mixer(p: Params, images: jax.Array) -> jax.Array:
    """MLP-Mixer on patches of 4 x 4."""
    b, h, w, c = images.shape
    patches = images.reshape(b, h // 4, 4, w // 4, 4, c).transpose(0, 1, 3, 2, 4, 5).reshape(b, -1, 16 * c)
    x = dense(p, "patches", patches)
    for layer in p["layers"]:
        y = layer_norm(x).swapaxes(1, 2)
        x = x + dense(layer, "tokens_out", jax.nn.gelu(dense(layer, "tokens", y))).swapaxes(1, 2)
        x = x + dense(layer, "channels_out", jax.nn.gelu(dense(layer, "channels", layer_norm(x))))
    return dense(p, "last", x.mean(1))


def unet(p: Params, x: jax.Array) -> jax.Array:
    """Two levels: strided convolutions down, transposed ones up, skips by concatenation; NHWC."""

    def conv(name: str, x: jax.Array, stride: int = 1) -> jax.Array:
        y = jax.lax.conv_general_dilated(x, p[name], (stride, stride), "SAME", dimension_numbers=NHWC)
        return jax.nn.relu(y)

    first = conv("in", x)
    second = conv("down", first, 2)
    third = conv("bottom", conv("down2", second, 2))
    up = jax.lax.conv_transpose(third, p["up"], (2, 2), "SAME", dimension_numbers=NHWC)
    up = conv("middle", jnp.concatenate([up, second], -1))
    up = jax.image.resize(up, (*first.shape[:3], up.shape[3]), "nearest")
    return conv("out", jnp.concatenate([up, first], -1))


def lstm(p: Params, x: jax.Array) -> jax.Array:
    """A scan over time; x [batch, time, features]."""

    def step(carry: Any, row: jax.Array) -> Any:
        hidden, cell = carry
        i, f, g, o = jnp.split(dense(p, "row", row) + dense(p, "hidden", hidden), 4, -1)
        cell = jax.nn.sigmoid(f) * cell + jax.nn.sigmoid(i) * jnp.tanh(g)
        hidden = jax.nn.sigmoid(o) * jnp.tanh(cell)
        return (hidden, cell), hidden

    zeros = jnp.zeros((x.shape[0], 128))
    _, hidden = jax.lax.scan(step, (zeros, zeros), x.swapaxes(0, 1))
    return dense(p, "last", hidden.swapaxes(0, 1))


def build_transformer() -> Built:
    layer = {
        "q": (128, 128),
        "k": (128, 128),
        "v": (128, 128),
        "out": (128, 128),
        "wide": (128, 512),
        "narrow": (512, 128),
    }
    layers = [params(**layer) for _ in range(3)]
    return function(transformer, {"embed": normal(VOCABULARY, 128) / 10, "layers": layers}, tokens(2, 64))


def build_llama_step() -> Built:
    layer = {"q": (128, 128), "k": (128, 64), "v": (128, 64), "out": (128, 128), "gate": (128, 384), "wide": (128, 384)}
    layers = [params(**layer, narrow=(384, 128)) for _ in range(3)]
    cache = [normal(2, 64, 2, 32, seed=seed) for seed in range(6)]

    # The caches are arguments of their own: the peer takes no trees.
    def step(p: Params, ids: jax.Array, position: jax.Array, *cache: jax.Array) -> Any:
        logits, fresh = llama_step(p, ids, list(zip(cache[::2], cache[1::2], strict=True)), position)
        return logits, *(each for pair in fresh for each in pair)

    p = {"embed": normal(VOCABULARY, 128) / 10, "layers": layers}
    return function(step, p, tokens(2, 1), jnp.int32(17), *cache)  # type: ignore[arg-type]


def build_mixer() -> Built:
    layer = {"tokens": (64, 128), "tokens_out": (128, 64), "channels": (128, 512), "channels_out": (512, 128)}
    outer = params(patches=(48, 128), last=(128, CLASSES))
    return function(mixer, {**outer, "layers": [params(**layer) for _ in range(3)]}, normal(4, 32, 32, 3))


def build_unet() -> Built:
    sizes = {
        "down": (32, 64),
        "down2": (64, 128),
        "bottom": (128, 128),
        "up": (128, 64),
        "middle": (128, 32),
        "out": (64, 8),
    }
    weights = {name: normal(3, 3, *io) / (9 * io[0]) ** 0.5 for name, io in {"in": (3, 32), **sizes}.items()}
    return function(unet, weights, normal(2, 32, 32, 3))


def build_lstm() -> Built:
    return function(lstm, params(row=(32, 512), hidden=(128, 512), last=(128, CLASSES)), normal(8, 32, 32))


MODELS = [
    Model("jnp transformer", build_transformer),
    Model("jnp Llama decode step", build_llama_step),
    Model("jnp MLP-Mixer", build_mixer),
    Model("jnp UNet", build_unet),
    Model("jnp LSTM", build_lstm),
]
