"""A train step in less memory: one line around the loss, and a budget.

    python examples/remat_checkpoint.py --layers 6

Prints, for several budgets, the temporary memory that XLA allocates for the step, its FLOPs, and how far its gradients
are from those of the step without checkpoint.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from rich.console import Console
from rich.table import Table

import zenith_mlir as zenith

Arrays = dict[str, jax.Array]


def parameters(key: jax.Array, layers: int, width: int) -> list[Arrays]:
    shapes = {"qkv": (width, 3 * width), "out": (width, width), "up": (width, 4 * width), "down": (4 * width, width)}
    return [
        {
            name: jax.random.normal(jax.random.fold_in(key, 4 * i + j), shape) * 0.02
            for j, (name, shape) in enumerate(shapes.items())
        }
        for i in range(layers)
    ]


def layer(p: Arrays, x: jax.Array) -> jax.Array:
    heads = (*x.shape[:2], 4, -1)
    q, k, v = (part.reshape(heads) for part in jnp.split(jax.nn.standardize(x) @ p["qkv"], 3, axis=-1))
    x = x + jax.nn.dot_product_attention(q, k, v, is_causal=True).reshape(x.shape) @ p["out"]
    return x + jax.nn.gelu(jax.nn.standardize(x) @ p["up"]) @ p["down"]


def loss(ps: list[Arrays], x: jax.Array) -> jax.Array:
    y = x
    for p in ps:
        y = layer(p, y)
    return jnp.mean((y - x[:, ::-1]) ** 2)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in (("layers", 4), ("batch", 4), ("sequence", 128), ("width", 128)):
        parser.add_argument(f"--{name}", type=int, default=default)
    args = parser.parse_args()
    ps = parameters(jax.random.key(0), args.layers, args.width)
    x = jax.random.normal(jax.random.key(1), (args.batch, args.sequence, args.width))

    table = Table("step", "temporary MiB", "GFLOP", "gradients differ by", title="one train step")
    programs: dict[str, Callable[..., Any]] = {"as it is": loss}
    programs |= {
        f'zenith.checkpoint(loss, budget="{k}%")': zenith.checkpoint(loss, budget=f"{k}%") for k in (50, 25, 10)
    }
    programs['zenith.checkpoint(loss, policy="sqrt")'] = zenith.checkpoint(loss, policy="sqrt")
    plain = None
    for name, program in programs.items():
        step = jax.jit(jax.grad(program)).lower(ps, x).compile()
        gradients = step(ps, x)
        plain = plain or gradients
        memory, flops = step.memory_analysis().temp_size_in_bytes, step.cost_analysis()["flops"]
        table.add_row(name, f"{memory / 2**20:.1f}", f"{flops / 1e9:.2f}", f"{_difference(gradients, plain):.1e}")
    Console(width=110).print(table)


def _difference(a: Any, b: Any) -> float:
    """The largest difference, as a part of the largest element of the same array."""
    return max(
        float(jnp.abs(x - y).max() / jnp.abs(y).max())
        for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
    )


if __name__ == "__main__":
    main()
