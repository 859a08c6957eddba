"""A transformer with a KV cache as one ONNX file for every batch size and length, checked against JAX.

python examples/onnx_export.py        # needs pip install "zenith_mlir[onnx]"
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

import zenith_mlir as zenith

LAYERS, HEADS, DEPTH, VOCABULARY = 2, 4, 16, 100
WIDTH = HEADS * DEPTH


def init(key):
    """Weights as a pytree: their names in the file are their places in it."""

    def matrix(*dims):
        nonlocal key
        key, this = jax.random.split(key)
        return jax.random.normal(this, dims) / dims[0] ** 0.5

    def layer():
        shapes = {
            "qkv": (WIDTH, 3 * WIDTH),
            "out": (WIDTH, WIDTH),
            "up": (WIDTH, 4 * WIDTH),
            "down": (4 * WIDTH, WIDTH),
        }
        return {name: matrix(*dims) for name, dims in shapes.items()} | {"norm": jnp.ones(WIDTH)}

    return {"embedding": matrix(VOCABULARY, WIDTH), "layers": [layer() for _ in range(LAYERS)]}


def norm(x, weight):
    return x * jax.lax.rsqrt(jnp.mean(x * x, -1, keepdims=True) + 1e-6) * weight


def step(params, tokens, past):
    """The next token's logits, and the cache with these tokens in it.

    tokens [batch, new], past: for each layer keys and values [batch, seen, heads, depth].
    """
    x, present = params["embedding"][tokens], []
    for layer, (keys, values) in zip(params["layers"], past, strict=True):
        qkv = norm(x, layer["norm"]) @ layer["qkv"]
        q, k, v = jnp.split(qkv.reshape(*x.shape[:2], 3 * HEADS, DEPTH), 3, axis=2)
        k, v = jnp.concatenate([keys, k], 1), jnp.concatenate([values, v], 1)
        present.append((k, v))
        logits = jnp.einsum("bqhd,bkhd->bhqk", q, k) / DEPTH**0.5
        visible = jnp.arange(k.shape[1]) <= jnp.arange(q.shape[1])[:, None] + keys.shape[1]
        weights = jax.nn.softmax(jnp.where(visible, logits, -1e30), -1)
        x = x + jnp.einsum("bhqk,bkhd->bqhd", weights, v).reshape(x.shape) @ layer["out"]
        x = x + jax.nn.gelu(norm(x, layer["norm"]) @ layer["up"]) @ layer["down"]
    return {"logits": x[:, -1] @ params["embedding"].T, "present": present}


def main() -> None:
    params = init(jax.random.key(0))

    def inputs(batch, new, seen):
        cache = np.zeros((batch, seen, HEADS, DEPTH), np.float32)
        return np.ones((batch, new), np.int32), [(cache, cache)] * LAYERS

    with tempfile.TemporaryDirectory() as folder:
        export = zenith.export_onnx(
            step,
            inputs(2, 3, 4),
            Path(folder) / "decoder.onnx",
            params=params,
            dynamic={"tokens": "batch, new", "past": "batch, seen, ..."},
        )
        print(export.report)
        print(zenith.validate_onnx(export, step, [inputs(1, 1, 9), inputs(3, 5, 2)], params=params))


if __name__ == "__main__":
    main()
