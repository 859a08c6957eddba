"""Where the memory of a training step goes, by line, and a forward and backward by hand within a budget.

    python examples/memory_report.py --plot timeline.svg

The first part compiles a step and prints what XLA allocates, which of the lines below made what is live at the peak,
and draws live bytes over the schedule. The second walks layers by hand, with activations that wait on disk.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import rich

import zenith_mlir as zenith
from zenith_mlir.memory import ActivationStore, Manager

Weights = tuple[jax.Array, jax.Array]


def layer(weights: Weights, x: jax.Array) -> jax.Array:
    hidden = jax.nn.gelu(x @ weights[0])
    return x + hidden @ weights[1]


def loss(model: list[Weights], x: jax.Array) -> jax.Array:
    for weights in model:
        x = layer(weights, x)
    return (x**2).mean()


def by_hand(model: list[Weights], x: jax.Array, budget: str) -> tuple[list[Weights], str]:
    """The gradients of `loss`, layer by layer: only the inputs of layers are kept, and only as many as fit."""
    forward = jax.jit(layer)
    backward = jax.jit(lambda weights, x, cotangent: jax.vjp(layer, weights, x)[1](cotangent))
    with Manager(budget, spill="disk") as manager:
        inputs = ActivationStore(manager)
        for i, weights in enumerate(model):
            inputs[f"layer{i}"] = x
            x = forward(weights, x)
        cotangent = 2 * x / x.size
        gradients: list[Weights] = []
        for i, weights in reversed(list(enumerate(model))):
            gradient, cotangent = backward(weights, inputs.pop(f"layer{i}"), cotangent)
            gradients.insert(0, gradient)
        stats = manager.stats()
    return gradients, f"{stats.evictions} inputs of {len(model)} waited on disk, {stats.prefetches} came back ahead"


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layers", type=int, default=8)
    parser.add_argument("--width", type=int, default=512)
    parser.add_argument("--rows", type=int, default=1024)
    parser.add_argument("--budget", default="6MiB", help="for the activations that are kept by hand")
    parser.add_argument("--plot", metavar="FILE")
    args = parser.parse_args(argv)
    keys = jax.random.split(jax.random.key(0), args.layers)
    wide, tall = (args.width, 4 * args.width), (4 * args.width, args.width)
    model = [(0.02 * jax.random.normal(key, wide), 0.02 * jax.random.normal(key, tall)) for key in keys]
    x = jnp.ones((args.rows, args.width))

    compiled = jax.jit(jax.value_and_grad(loss)).lower(model, x).compile()
    report = zenith.memory.report(compiled)
    rich.print(report)
    if args.plot:
        report.plot(args.plot)

    gradients, story = by_hand(model, x, args.budget)
    expected = compiled(model, x)[1]
    error = max(float(jnp.abs(a - b).max()) for a, b in zip(*map(jax.tree.leaves, (gradients, expected)), strict=True))
    print(f"\nby hand within {args.budget}: {story}; gradients differ by at most {error:.1e}")


if __name__ == "__main__":
    main()
