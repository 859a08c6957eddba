"""One small network trained in float32, in bfloat16, and in float16 with and without a loss scale.

    python examples/precision_training.py

Parameters are float32 throughout, and the learning rate is the same everywhere. What the network learns is a field of
256 numbers around 0.001, and its loss is their mean squared error: the derivative by each number is about 1e-8 and gets
smaller as the error does, while float16 knows no number between 0 and 6e-8. A loss scale moves the derivatives to where
float16 is precise. Without one, training stalls.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from rich.console import Console
from rich.table import Table

from zenith_mlir.precision import DynamicLossScale, NoLossScale, Policy, train_step

Weights = tuple[Any, Any]

RUNS: dict[str, tuple[str, Any]] = {
    "float32": ("float32", NoLossScale),
    "bfloat16": ("mixed_bfloat16", NoLossScale),
    "float16, loss scale": ("mixed_float16", DynamicLossScale),
    "float16, none": ("mixed_float16", NoLossScale),
}


def network(weights: Weights, x: Any) -> jax.Array:
    return jnp.tanh(x @ weights[0]) @ weights[1]


def random(seed: int, inputs: int, hidden: int, outputs: int) -> Weights:
    numbers = np.random.default_rng(seed)
    first, last = numbers.normal(size=(inputs, hidden)), 0.001 * numbers.normal(size=(hidden, outputs))
    return np.float32(first / inputs**0.5), np.float32(last / hidden**0.5)


def train(policy: str, loss_scale: Any, steps: int, rows: int) -> tuple[float, int, float]:
    """The last loss as a part of the first, how many steps were skipped, and the last loss scale."""
    sizes = (8, 32, 256)
    x = np.float32(np.random.default_rng(3).normal(size=(rows, sizes[0])))
    target = np.float32(network(random(1, *sizes), x))
    # The network runs under the policy; the loss around it stays in float32.
    student = Policy.parse(policy).wrap(network)

    def loss(weights: Weights) -> jax.Array:
        return ((student(weights, x) - target) ** 2).mean()

    optimizer = optax.adam(optax.linear_schedule(3e-3, 0.0, steps), eps=1e-12)
    step = train_step(loss, optimizer)

    def body(state: tuple[Any, ...], _: None) -> tuple[tuple[Any, ...], tuple[jax.Array, jax.Array]]:
        *state, value, finite = step(*state)
        return tuple(state), (value, finite)

    # XLA may leave out a rounding to float16 where float32 follows, as on a CPU that has no products of float16.
    exact = {"xla_allow_excess_precision": False}
    run = jax.jit(lambda state: jax.lax.scan(body, state, length=steps), compiler_options=exact)
    weights = random(2, *sizes)
    (_, _, loss_scale), (values, finite) = run((weights, optimizer.init(weights), loss_scale))
    return float(values[-1] / values[0]), int(np.sum(~finite)), float(loss_scale.loss_scale)


def main(argv: Sequence[str] | None = None) -> dict[str, float]:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--rows", type=int, default=512, help="examples in a step")
    args = parser.parse_args(argv)
    table = Table("training in", "last loss / first", "steps skipped", "last loss scale")
    losses = {}
    for name, (policy, loss_scale) in RUNS.items():
        losses[name], skipped, scale = train(policy, loss_scale(), args.steps, args.rows)
        table.add_row(name, f"{losses[name]:.4f}", str(skipped), f"{scale:g}")
    Console().print(table)
    return losses


if __name__ == "__main__":
    main()
