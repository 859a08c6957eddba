"""Flax Linen, dtype=bfloat16."""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from bf16_models.model import CLASSES, VOCABULARY, Apply, Model, images, tokens


class Encoder(nn.Module):
    """Pre-norm transformer blocks."""

    dtype: Any
    depth: int = 2
    width: int = 64

    @nn.compact
    def __call__(self, ids: jax.Array) -> jax.Array:
        x = nn.Embed(VOCABULARY, self.width, dtype=self.dtype)(ids)
        for _ in range(self.depth):
            y = nn.LayerNorm(dtype=self.dtype)(x)
            x = x + nn.MultiHeadDotProductAttention(4, dtype=self.dtype)(y)
            y = nn.Dense(4 * self.width, dtype=self.dtype)(nn.LayerNorm(dtype=self.dtype)(x))
            x = x + nn.Dense(self.width, dtype=self.dtype)(nn.gelu(y))
        return nn.Dense(VOCABULARY, dtype=self.dtype)(nn.LayerNorm(dtype=self.dtype)(x))


class EncoderDecoder(nn.Module):
    """Post-norm blocks; the second half of the tokens is decoded, with a causal mask, from the first half."""

    dtype: Any
    depth: int = 2
    width: int = 64

    @nn.compact
    def __call__(self, ids: jax.Array) -> jax.Array:
        embed = nn.Embed(VOCABULARY, self.width, dtype=self.dtype)
        source, target = (embed(part) for part in jnp.split(ids, 2, 1))
        for _ in range(self.depth):
            source = self.feed(self.attend(source, source))
        causal = nn.make_causal_mask(ids[:, : ids.shape[1] // 2])
        for _ in range(self.depth):
            target = self.feed(self.attend(self.attend(target, target, causal), source))
        return nn.Dense(VOCABULARY, dtype=self.dtype)(target)

    def attend(self, x: jax.Array, memory: jax.Array, mask: jax.Array | None = None) -> jax.Array:
        attention = nn.MultiHeadDotProductAttention(4, dtype=self.dtype)
        return nn.LayerNorm(dtype=self.dtype)(x + attention(x, memory, mask=mask))

    def feed(self, x: jax.Array) -> jax.Array:
        y = nn.Dense(self.width, dtype=self.dtype)(nn.relu(nn.Dense(4 * self.width, dtype=self.dtype)(x)))
        return nn.LayerNorm(dtype=self.dtype)(x + y)


class ConvNet(nn.Module):
    """A residual network with batch normalization by the batch itself."""

    dtype: Any

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        x = nn.Conv(16, (3, 3), dtype=self.dtype)(x)
        for width, strides in ((16, 1), (32, 2), (64, 2)):
            y = nn.relu(self.norm(nn.Conv(width, (3, 3), strides, use_bias=False, dtype=self.dtype)(x)))
            y = self.norm(nn.Conv(width, (3, 3), use_bias=False, dtype=self.dtype)(y))
            x = nn.relu(y + nn.Conv(width, (1, 1), strides, dtype=self.dtype)(x))
        return nn.Dense(CLASSES, dtype=self.dtype)(x.mean((1, 2)))

    def norm(self, x: jax.Array) -> jax.Array:
        return nn.BatchNorm(use_running_average=False, dtype=self.dtype)(x)


class Lstm(nn.Module):
    """A loop whose carry is cast or is not."""

    dtype: Any

    @nn.compact
    def __call__(self, ids: jax.Array) -> jax.Array:
        x = nn.Embed(VOCABULARY, 32, dtype=self.dtype)(ids)
        for _ in range(2):
            x = nn.RNN(nn.OptimizedLSTMCell(64, dtype=self.dtype))(x)
        return nn.Dense(VOCABULARY, dtype=self.dtype)(x)


def model(name: str, kind: type[nn.Module], inputs: Any) -> Model:
    def build(dtype: str) -> Apply:
        module = kind(dtype=jnp.dtype(dtype))
        return lambda parameters, x: module.apply({"params": parameters}, x, mutable=["batch_stats"])[0]

    def parameters() -> Any:
        module = kind(dtype=jnp.float32)
        return jax.jit(module.init)(jax.random.key(0), inputs(np.random.default_rng(0)))["params"]

    return Model(f"Linen {name}", build, parameters, inputs)


MODELS = [
    model("encoder", Encoder, tokens(4, 32)),
    model("encoder-decoder", EncoderDecoder, tokens(4, 32)),
    model("conv net", ConvNet, images(8, 8)),
    model("LSTM", Lstm, tokens(4, 16)),
]
