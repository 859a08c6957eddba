"""Small training steps for tests of rematerialization; each returns a function and its arguments."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

Program = tuple[Callable[..., Any], tuple[Any, ...]]


def normal(seed: int, *shape: int) -> np.ndarray:
    return (np.random.default_rng(seed).standard_normal(shape) / np.sqrt(shape[-1])).astype(np.float32)


def step(loss: Callable[..., jax.Array], parameters: Any, *batch: Any) -> Program:
    """Loss and updated parameters."""

    def train(parameters: Any, *batch: Any) -> Any:
        value, gradients = jax.value_and_grad(loss)(parameters, *batch)
        return value, jax.tree.map(lambda p, g: p - 0.1 * g, parameters, gradients)

    return train, (parameters, *batch)


def chain(layers: int = 8, batch: int = 64, width: int = 32) -> Program:
    """Products and tanh, one after the other, written out."""

    def loss(weights: list[jax.Array], x: jax.Array) -> jax.Array:
        for w in weights:
            x = jnp.tanh(x @ w)
        return (x**2).mean()

    return step(loss, [normal(i, width, width) for i in range(layers)], normal(99, batch, width))


def scanned(layers: int = 8, batch: int = 64, width: int = 32) -> Program:
    """The same as one scan, with a residual connection."""

    def loss(weights: jax.Array, x: jax.Array) -> jax.Array:
        def layer(x: jax.Array, w: jax.Array) -> tuple[jax.Array, None]:
            return x + jnp.tanh(jnp.sin(x @ w) @ w), None

        return (jax.lax.scan(layer, x, weights)[0] ** 2).mean()

    return step(loss, normal(1, layers, width, width), normal(99, batch, width))


def transformer(layers: int = 3, batch: int = 2, length: int = 32, width: int = 32, heads: int = 2) -> Program:
    """Attention and a gelu MLP behind layer norms, with a causal mask."""

    def norm(x: jax.Array, g: jax.Array) -> jax.Array:
        centred = x - x.mean(-1, keepdims=True)
        return centred * jax.lax.rsqrt((centred**2).mean(-1, keepdims=True) + 1e-5) * g

    def layer(p: dict[str, jax.Array], x: jax.Array) -> jax.Array:
        h = norm(x, p["g"])
        q, k, v = ((h @ p[name]).reshape(batch, length, heads, -1) for name in "qkv")
        logits = jnp.einsum("bthd,bshd->bhts", q, k) * (width // heads) ** -0.5
        logits = jnp.where(jnp.tril(jnp.ones((length, length), bool)), logits, -1e9)
        x = x + jnp.einsum("bhts,bshd->bthd", jax.nn.softmax(logits), v).reshape(x.shape) @ p["o"]
        return x + jax.nn.gelu(norm(x, p["g"]) @ p["up"]) @ p["down"]

    def loss(parameters: list[dict[str, jax.Array]], x: jax.Array) -> jax.Array:
        for p in parameters:
            x = layer(p, x)
        return (x**2).mean()

    shapes = dict.fromkeys("qkvo", (width, width)) | {"up": (width, 4 * width), "down": (4 * width, width)}
    parameters = [
        {name: normal(7 * i + n, *shape) for n, (name, shape) in enumerate(shapes.items())}
        | {"g": np.ones(width, np.float32)}
        for i in range(layers)
    ]
    return step(loss, parameters, normal(99, batch, length, width))


def convolutions(batch: int = 2, size: int = 16, channels: int = 8) -> Program:
    """Convolutions with batch statistics, whose running means the step returns, a pool and a skip connection."""

    def convolve(x: jax.Array, w: jax.Array) -> jax.Array:
        return jax.lax.conv_general_dilated(x, w, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))

    def loss(weights: list[jax.Array], x: jax.Array) -> tuple[jax.Array, list[jax.Array]]:
        means = []
        for w in weights:
            y = convolve(x, w)
            mean = y.mean((0, 1, 2))
            means.append(mean)
            y = jax.nn.relu((y - mean) * jax.lax.rsqrt(((y - mean) ** 2).mean((0, 1, 2)) + 1e-5))
            x = x + y
        pooled = jax.lax.reduce_window(x, -jnp.inf, jax.lax.max, (1, 2, 2, 1), (1, 2, 2, 1), "VALID")
        return (pooled**2).mean(), means

    def train(weights: list[jax.Array], x: jax.Array) -> Any:
        (value, means), gradients = jax.value_and_grad(loss, has_aux=True)(weights, x)
        return value, means, [w - 0.1 * g for w, g in zip(weights, gradients, strict=True)]

    weights = [normal(i, 3, 3, channels, channels) for i in range(4)]
    return train, (weights, normal(99, batch, size, size, channels))
