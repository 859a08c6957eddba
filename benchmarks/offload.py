"""Residuals on the host: memory, time and gradients of a transformer's training step under annotate-offload, on a GPU.

    python benchmarks/offload.py [--layers 12] [--batch 8] [--length 2048] [--width 1024] [--only scan]

Layers in bfloat16 with cuDNN attention and parameters in float32, unrolled and under a scan; loss and gradients of all
parameters. Each row is compiled and run by itself: temporary memory on the device and on the host as XLA plans it, the
median of the steps, and the largest distance of a gradient from that of the program as it is, relative in the 2-norm.
"""

from __future__ import annotations

import argparse
import functools
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

import zenith_mlir as zenith

Weights = dict[str, jax.Array]
Loss = Callable[[Weights, jax.Array], jax.Array]


def norm(x: jax.Array, weight: jax.Array) -> jax.Array:
    wide = x.astype(jnp.float32)
    centred = wide - wide.mean(-1, keepdims=True)
    return (centred * jax.lax.rsqrt(wide.var(-1, keepdims=True) + 1e-5) * weight).astype(x.dtype)


def layer(w: Weights, x: jax.Array) -> jax.Array:
    with jax.named_scope("attention"):
        qkv = norm(x, w["norm1"]) @ w["qkv"].astype(x.dtype)
        q, k, v = (part.reshape(*x.shape[:2], -1, 64) for part in jnp.split(qkv, 3, -1))
        attended = jax.nn.dot_product_attention(q, k, v, is_causal=True, implementation="cudnn")
        x = x + attended.reshape(x.shape) @ w["out"].astype(x.dtype)
    with jax.named_scope("mlp"):
        return x + jax.nn.gelu(norm(x, w["norm2"]) @ w["up"].astype(x.dtype)) @ w["down"].astype(x.dtype)


def unrolled(ws: Weights, x: jax.Array) -> jax.Array:
    for i in range(len(ws["qkv"])):
        x = layer({name: w[i] for name, w in ws.items()}, x)
    return jnp.mean(jnp.square(x.astype(jnp.float32)))


def scanned(ws: Weights, x: jax.Array, layer: Any = layer) -> jax.Array:
    x, _ = jax.lax.scan(lambda x, w: (layer(w, x), None), x, ws)
    return jnp.mean(jnp.square(x.astype(jnp.float32)))


@dataclass(frozen=True)
class Row:
    """The first row of each loss without a pipeline is what the others are compared with."""

    name: str
    loss: Loss
    options: str | None = None


ROWS = [
    Row("unrolled, as it is", unrolled),
    Row("unrolled, what hides", unrolled, ""),
    Row("unrolled, budget=75%", unrolled, "budget=75% min-bytes=16MiB"),
    Row("unrolled, budget=50%", unrolled, "budget=50% min-bytes=16MiB"),
    Row("unrolled, budget=0", unrolled, "budget=0 min-bytes=16MiB"),
    Row("scan, as it is", scanned),
    Row("scan, scan=true", scanned, "scan=true"),
    Row("scan, jax.checkpoint", functools.partial(scanned, layer=jax.checkpoint(layer))),
]


def arguments(layers: int, batch: int, length: int, width: int) -> tuple[Weights, jax.Array]:
    shapes = {"down": (4 * width, width), "out": (width, width), "qkv": (width, 3 * width), "up": (width, 4 * width)}
    keys = iter(jax.random.split(jax.random.key(0), len(shapes) + 1))
    weights = {
        name: jax.random.normal(next(keys), (layers, *shape)) / shape[0] ** 0.5 for name, shape in shapes.items()
    }
    weights |= {name: jnp.ones((layers, width)) for name in ("norm1", "norm2")}
    return weights, jax.random.normal(next(keys), (batch, length, width), jnp.bfloat16)


def measure(row: Row, args: tuple[Weights, jax.Array], reference: dict[str, list[NDArray[Any]]], table: Table) -> None:
    step = jax.value_and_grad(row.loss)
    pipeline = None if row.options is None else f"annotate-offload{{self-check=false {row.options}}}"
    with zenith.pipeline(pipeline, strict=True):
        compiled = jax.jit(step).lower(*args).compile()
    results = jax.block_until_ready(compiled(*args))
    seconds = []
    for _ in range(10):
        start = time.perf_counter()
        jax.block_until_ready(compiled(*args))
        seconds.append(time.perf_counter() - start)
    arrays = [np.asarray(result, np.float32) for result in jax.tree.leaves(results)]
    expected = reference.setdefault(row.name.split(",")[0], arrays)
    error = max(float(np.linalg.norm(a - e) / np.linalg.norm(e)) for a, e in zip(arrays, expected, strict=True))
    memory = compiled.memory_analysis()
    sizes = (f"{size / 2**20:.0f}" for size in (memory.temp_size_in_bytes, memory.host_temp_size_in_bytes))
    table.add_row(row.name, *sizes, f"{1e3 * statistics.median(seconds):.1f}", f"{error:.1e}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in (("layers", 12), ("batch", 8), ("length", 2048), ("width", 1024)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--only", default="", help="rows whose name has this in it")
    options = parser.parse_args()
    args = arguments(options.layers, options.batch, options.length, options.width)
    table = Table(
        "step", "device MiB", "host MiB", "ms", "error", title=f"{jax.devices()[0].device_kind}, jax {jax.__version__}"
    )
    reference: dict[str, list[NDArray[Any]]] = {}
    for row in ROWS:
        if options.only in row.name:
            measure(row, args, reference, table)
    Console().print(table)


if __name__ == "__main__":
    main()
