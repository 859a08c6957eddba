"""A transformer block written with zenith.ops, beside the same block in plain JAX.

    python examples/ops_transformer.py

Loss and gradients of both are computed under a pipeline. The ops name what they are, so there is nothing to find in the
first; what was done with each is printed.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import zenith_mlir as zenith

Parameters = dict[str, jax.Array]
HEADS = 4


def parameters(features: int, classes: int, dtype: Any = jnp.float32) -> Parameters:
    """Of one block and the classifier behind it."""
    shapes = {
        "norm1": (features,),
        "qkv": (features, 3 * features),
        "out": (features, features),
        "norm2": (features,),
        "gate_up": (features, 8 * features),
        "down": (4 * features, features),
        "classes": (features, classes),
    }
    draw = np.random.default_rng(0).normal
    return {
        name: jnp.asarray(np.ones(shape) if len(shape) == 1 else draw(size=shape) / shape[0] ** 0.5, dtype)
        for name, shape in shapes.items()
    }


def angles(length: int, features: int) -> tuple[jax.Array, jax.Array]:
    """Cosines and sines of rotary positions, [length, 1, features / 2]."""
    turns = jnp.arange(length)[:, None] / 10000 ** jnp.linspace(0, 1, features // 2, endpoint=False)
    return jnp.cos(turns)[:, None], jnp.sin(turns)[:, None]


def with_ops(p: Parameters, x: jax.Array, labels: jax.Array) -> jax.Array:
    """The mean loss of a block of zenith.ops on x [B, T, F] and labels [B, T]."""
    ops = zenith.ops
    tables = angles(x.shape[1], x.shape[2] // HEADS)
    h = ops.rms_norm(x, p["norm1"])
    q, k, v = jnp.split(_heads(ops.matmul(h, p["qkv"])), 3, axis=-2)
    attended = ops.attention(ops.rotary(q, *tables), ops.rotary(k, *tables), v, is_causal=True)
    h, x = ops.rms_norm(ops.matmul(attended.reshape(x.shape), p["out"]), p["norm2"], residual=x)
    x = ops.matmul(ops.swiglu(ops.matmul(h, p["gate_up"])), p["down"], residual=x)
    losses: jax.Array = ops.cross_entropy(ops.matmul(x, p["classes"]), labels)
    return losses.mean()


def plain(p: Parameters, x: jax.Array, labels: jax.Array) -> jax.Array:
    """The same in jnp."""
    cos, sin = angles(x.shape[1], x.shape[2] // HEADS)

    def norm(x: jax.Array, weight: jax.Array) -> jax.Array:
        return x * jax.lax.rsqrt(jnp.mean(x**2, axis=-1, keepdims=True) + 1e-6) * weight

    def rotary(x: jax.Array) -> jax.Array:
        a, b = jnp.split(x, 2, axis=-1)
        return jnp.concatenate([a * cos - b * sin, b * cos + a * sin], axis=-1)

    h = norm(x, p["norm1"])
    q, k, v = jnp.split(_heads(h @ p["qkv"]), 3, axis=-2)
    logits = jnp.einsum("btnh,bsnh->bnts", rotary(q), rotary(k)) / q.shape[-1] ** 0.5
    causal = jnp.tril(jnp.ones(logits.shape[-2:], bool))
    weights = jax.nn.softmax(jnp.where(causal, logits, -1e30))
    attended = jnp.einsum("bnts,bsnh->btnh", weights, v)
    x = x + attended.reshape(x.shape) @ p["out"]
    gate, up = jnp.split(norm(x, p["norm2"]) @ p["gate_up"], 2, axis=-1)
    x = x + (jax.nn.silu(gate) * up) @ p["down"]
    logs = jax.nn.log_softmax(x @ p["classes"])
    return -jnp.take_along_axis(logs, labels[..., None], axis=-1).mean()


def _heads(x: jax.Array) -> jax.Array:
    """[B, T, 3 F] as [B, T, 3 N, F / N]."""
    return x.reshape(*x.shape[:-1], 3 * HEADS, -1)


def step(loss: Callable[..., jax.Array]) -> Callable[..., Any]:
    """Loss and gradients."""
    return jax.value_and_grad(loss)


def main() -> None:
    p = parameters(features=256, classes=1000)
    draw = np.random.default_rng(1)
    x = jnp.asarray(draw.normal(size=(2, 512, 256)), jnp.float32)
    labels = jnp.asarray(draw.integers(0, 1000, (2, 512)))
    for name, loss in (("zenith.ops", with_ops), ("plain JAX", plain)):
        run = zenith.jit(step(loss))
        value, _ = run(p, x, labels)
        print(f"{name}: loss {value:.6f}")
        for remark in run.remarks:
            print(f"  {remark.kind} {remark.op} {remark.reason or remark.args.get('implementation', '')}")


if __name__ == "__main__":
    main()
