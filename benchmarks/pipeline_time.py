"""What the pipeline costs: `default` against XLA's compile time of the same module, and how it grows with a model's
depth.

    python benchmarks/pipeline_time.py [in.mlir ...] [--layers 4,8,16,32]

For each module, and for a decoder of so many equal layers, unrolled: operations, seconds of the pipeline, seconds of
XLA on the module as it was, and their ratio.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from rich.console import Console
from rich.table import Table

import zenith_mlir as zenith
from zenith_mlir.ir.facts import walk


def decoder(layers: int) -> zenith.Module:
    """Causal self-attention and a GELU block, `layers` times, unrolled: forward and backward."""
    shapes = {"qkv": (64, 192), "out": (64, 64), "up": (64, 256), "down": (256, 64)}

    def layer(x: jax.Array, w: dict[str, jax.Array]) -> jax.Array:
        q, k, v = jnp.split((x @ w["qkv"]).reshape(2, 32, 4, 48), 3, axis=-1)
        scores = jnp.einsum("bthd,bshd->bhts", q, k) / 4.0
        scores = jnp.where(jnp.tril(jnp.ones((32, 32), bool)), scores, -1e9)
        x = x + jnp.einsum("bhts,bshd->bthd", jax.nn.softmax(scores), v).reshape(x.shape) @ w["out"]
        return x + jax.nn.gelu(x @ w["up"]) @ w["down"]

    def loss(weights: list[dict[str, jax.Array]], x: jax.Array) -> jax.Array:
        for w in weights:
            x = layer(x, w)
        return jnp.sum(x * x)

    weights = [{name: jax.ShapeDtypeStruct(dims, jnp.float32) for name, dims in shapes.items()} for _ in range(layers)]
    return zenith.trace(jax.grad(loss), weights, jax.ShapeDtypeStruct((2, 32, 64), jnp.float32))


def seconds(call: Any) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("modules", nargs="*", type=Path, metavar="in.mlir")
    parser.add_argument("--layers", default="4,8,16,32", help="depths of the decoder (default: %(default)s)")
    parser.add_argument("--no-xla", action="store_true", help="do not compile")
    args = parser.parse_args()
    modules = [(path.name, zenith.load(path)) for path in args.modules]
    modules += [(f"decoder, {n} layers, gradient", decoder(int(n))) for n in args.layers.split(",") if n]
    table = Table("module", "operations", "default s", "us an operation", "XLA s", "default / XLA")
    for name, module in modules:
        count = sum(1 for _ in walk(module.operation))
        module.run("default", target="cpu")  # imports and traced kernels
        own = min(seconds(lambda m=module: m.run("default", target="cpu")) for _ in range(3))
        xla = 0.0 if args.no_xla else seconds(lambda m=module: m.compile("cpu"))
        ratio = "" if args.no_xla else f"{100 * own / xla:.1f} %"
        table.add_row(name, str(count), f"{own:.3f}", f"{1e6 * own / count:.0f}", f"{xla:.2f}", ratio)
    Console(width=120).print(table)


if __name__ == "__main__":
    main()
