"""One training step of real models, as plain jax.jit compiles it and under the pipeline `default`, on the CPU.

    taskset -c 0 python benchmarks/train_step.py [--models gpt2,resnet18] [--rounds N]

GPT-2 small (Hugging Face Flax; 2 of its 12 layers, batch 4, sequence 512, float32) with cross-entropy and AdamW, and
ResNet-18 (Linen, batch 8 of 224 x 224, BatchNorm in training) with the same. Both executables of a model run in turn, a
step a round; prints the median and the minimum of the rounds, the ratio, and the temporary memory that XLA reports.
Needs flax, optax and, for GPT-2, a transformers that still has Flax models.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from collections import Counter
from collections.abc import Callable
from functools import partial
from typing import Any

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from rich.console import Console
from rich.table import Table

import zenith_mlir as zenith

Step = tuple[Callable[..., Any], tuple[Any, ...]]


def training(loss: Callable[..., jax.Array], parameters: Any, *batch: jax.Array) -> Step:
    optimizer = optax.adamw(1e-4)

    def step(parameters: Any, state: Any, *batch: jax.Array) -> Any:
        value, gradients = jax.value_and_grad(loss)(parameters, *batch)
        updates, state = optimizer.update(gradients, state, parameters)
        return optax.apply_updates(parameters, updates), state, value

    return step, (parameters, optimizer.init(parameters), *batch)


def gpt2(layers: int = 2) -> Step:
    from transformers import FlaxGPT2LMHeadModel, GPT2Config

    config = GPT2Config(n_layer=layers, resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0)
    model = FlaxGPT2LMHeadModel(config, input_shape=(1, 512), seed=0)
    tokens = jnp.asarray(np.random.default_rng(0).integers(0, config.vocab_size, (4, 512)), jnp.int32)

    def loss(parameters: Any, tokens: jax.Array) -> jax.Array:
        logits = model(tokens, params=parameters).logits[:, :-1]
        return optax.softmax_cross_entropy_with_integer_labels(logits, tokens[:, 1:]).mean()

    return training(loss, model.params, tokens)


class Block(nn.Module):
    features: int
    stride: int

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        norm = partial(nn.BatchNorm, use_running_average=False)
        y = nn.Conv(self.features, (3, 3), self.stride, use_bias=False)(x)
        y = nn.relu(norm()(y))
        y = norm()(nn.Conv(self.features, (3, 3), use_bias=False)(y))
        if x.shape != y.shape:
            x = norm()(nn.Conv(self.features, (1, 1), self.stride, use_bias=False)(x))
        return nn.relu(x + y)


class ResNet18(nn.Module):
    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        x = nn.Conv(64, (7, 7), 2, use_bias=False)(x)
        x = nn.relu(nn.BatchNorm(use_running_average=False)(x))
        x = nn.max_pool(x, (3, 3), (2, 2), "SAME")
        for features, stride in ((64, 1), (128, 2), (256, 2), (512, 2)):
            x = Block(features, stride)(x)
            x = Block(features, 1)(x)
        return nn.Dense(1000)(x.mean((1, 2)))


def resnet18() -> Step:
    model, rng = ResNet18(), np.random.default_rng(0)
    images = jnp.asarray(rng.normal(size=(8, 224, 224, 3)), jnp.float32)
    labels = jnp.asarray(rng.integers(0, 1000, 8), jnp.int32)
    variables = model.init(jax.random.key(0), images)

    def loss(parameters: Any, images: jax.Array, labels: jax.Array) -> jax.Array:
        logits, _ = model.apply({**variables, "params": parameters}, images, mutable=["batch_stats"])
        return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()

    return training(loss, variables["params"], images, labels)


MODELS: dict[str, Callable[[], Step]] = {"gpt2": gpt2, "resnet18": resnet18}


def measure(name: str, rounds: int, table: Table) -> None:
    function, arguments = MODELS[name]()
    plain = jax.jit(function).lower(*arguments).compile()
    with zenith.pipeline("default", strict=True) as scope:
        fused = jax.jit(function).lower(*arguments).compile()
    passed = Counter(
        r.op.removeprefix("zenith.") for r in scope.remarks if r.pass_name == "lower-kernels" and r.kind == "passed"
    )
    kernels = ", ".join(f"{count} {op}" for op, count in sorted(passed.items())) or "none"
    times: tuple[list[float], list[float]] = ([], [])
    for _ in range(rounds + 1):
        for executable, seconds in zip((plain, fused), times, strict=True):
            start = time.perf_counter()
            jax.block_until_ready(executable(*arguments))
            seconds.append(time.perf_counter() - start)
    medians = [1e3 * statistics.median(seconds[1:]) for seconds in times]
    shown = [f"{m:.0f} ({1e3 * min(s[1:]):.0f})" for m, s in zip(medians, times, strict=True)]
    memory = [e.memory_analysis().temp_size_in_bytes / 2**20 for e in (plain, fused)]
    table.add_row(
        name,
        *shown,
        f"{medians[0] / medians[1]:.2f}",
        *(f"{m:.0f}" for m in memory),
        f"{memory[1] / memory[0]:.2f}",
        kernels,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", default=",".join(MODELS), help="comma-separated (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    unknown = [name for name in args.models.split(",") if name not in MODELS]
    if unknown:
        parser.error(f"no model {', '.join(unknown)}; there are {', '.join(MODELS)}")
    table = Table(
        "step", "plain, ms", "default, ms", "plain/default", "temporaries, MiB", "default", "ratio", "kernels"
    )
    for name in args.models.split(","):
        measure(name, args.rounds, table)
    Console(width=200).print(f"jax {jax.__version__}, {len(os.sched_getaffinity(0))} cores", table)


if __name__ == "__main__":
    main()
