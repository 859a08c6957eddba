"""Training in float32, bfloat16 and float16, on real data and several seeds: the losses that are reached.

    python benchmarks/precision_training.py [--tasks digits,text] [--seeds 5] [--by pass|policy] [--steps N]

    digits   scikit-learn's handwritten digits: an autoencoder of logistic units (Hinton and Salakhutdinov 2006) whose
             gradients shrink from layer to layer; Adam on the whole training set, mean squared error
    text     the help texts that come with Python (`pydoc_data.topics`), letter by letter: a transformer, AdamW,
             cross-entropy

Every run of a seed starts with the same parameters and sees the same batches; steps are a scan. `f16` trains with a
DynamicLossScale; `f16, no scale` is the control: the gradients of the digits vanish, those of the text are large
enough. By `pass` the float32 step goes through `prepare,cast-precision`, by `policy` the loss is wrapped by
`zenith.precision.Policy`. XLA may keep more bits than a program says (`xla_allow_excess_precision`); here it must not.
Losses are float32 evaluations of the parameters, on the training data and on data that was not trained on; `±` is the
standard deviation over the seeds. Needs scikit-learn, flax and optax.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from rich.console import Console
from rich.table import Table

import zenith_mlir as zenith
from zenith_mlir.precision import DynamicLossScale, NoLossScale, Policy, train_step

Batch = tuple[np.ndarray, np.ndarray]
STEPS_AT_ONCE = 25
OPTIONS = {"xla_allow_excess_precision": False}


@dataclass(frozen=True)
class Task:
    model: nn.Module
    objective: Callable[[jax.Array, jax.Array], jax.Array]
    optimizer: optax.GradientTransformation
    steps: int
    batch: Callable[[np.random.Generator], Batch]
    train: Batch
    test: Batch

    def loss(self, params: Any, inputs: jax.Array, labels: jax.Array) -> jax.Array:
        return self.objective(self.model.apply(params, inputs).astype(jnp.float32), labels).mean()


class Autoencoder(nn.Module):
    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        for width in (256, 128, 32, 128, 256):
            x = nn.sigmoid(nn.Dense(width)(x))
        return nn.Dense(64)(x)


def digits() -> Task:
    from sklearn.datasets import load_digits

    data = load_digits()
    order = np.random.default_rng(0).permutation(len(data.data))
    images = (data.data[order] / 16).astype(np.float32)
    train, test = (images[:1408], images[:1408]), (images[1408:], images[1408:])
    return Task(Autoencoder(), optax.squared_error, optax.adam(3e-3), 400, lambda rng: train, train, test)


class Transformer(nn.Module):
    vocabulary: int
    layers: int = 2
    width: int = 64
    heads: int = 4

    @nn.compact
    def __call__(self, tokens: jax.Array) -> jax.Array:
        length = tokens.shape[1]
        x = nn.Embed(self.vocabulary, self.width)(tokens)
        x = x + self.param("positions", nn.initializers.normal(0.02), (length, self.width)).astype(x.dtype)
        mask = nn.make_causal_mask(tokens)
        for _ in range(self.layers):
            x = x + nn.MultiHeadDotProductAttention(self.heads)(nn.LayerNorm()(x), mask=mask)
            hidden = nn.gelu(nn.Dense(4 * self.width)(nn.LayerNorm()(x)))
            x = x + nn.Dense(self.width)(hidden)
        return nn.Dense(self.vocabulary)(nn.LayerNorm()(x))


def text() -> Task:
    from pydoc_data.topics import topics

    letters = np.frombuffer("\n".join(topics[name] for name in sorted(topics)).encode("ascii", "ignore"), np.uint8)
    known, tokens = np.unique(letters, return_inverse=True)
    split = len(tokens) * 9 // 10
    length = 64

    def windows(part: np.ndarray, starts: np.ndarray) -> Batch:
        rows = part[starts[:, None] + np.arange(length + 1)].astype(np.int32)
        return rows[:, :-1], rows[:, 1:]

    def batch(rng: np.random.Generator) -> Batch:
        return windows(tokens[:split], rng.integers(0, split - length - 1, 8))

    def fixed(part: np.ndarray) -> Batch:
        return windows(part, np.random.default_rng(1).integers(0, len(part) - length - 1, 64))

    schedule = optax.warmup_cosine_decay_schedule(0, 3e-3, 50, 300)
    model = Transformer(len(known))
    objective = optax.softmax_cross_entropy_with_integer_labels
    return Task(model, objective, optax.adamw(schedule), 300, batch, fixed(tokens[:split]), fixed(tokens[split:]))


TASKS: dict[str, Callable[[], Task]] = {"digits": digits, "text": text}
RUNS: dict[str, tuple[str, Any]] = {
    "f32": ("float32", NoLossScale()),
    "bf16": ("bfloat16", NoLossScale()),
    "f16": ("float16", DynamicLossScale(2.0**15, growth_interval=100)),
    "f16, no scale": ("float16", NoLossScale()),
}


def training(task: Task, dtype: str, by: str) -> Callable[..., Any]:
    """A scan over steps of training that compute in `dtype`, one for each batch."""
    policy = Policy.parse(f"params=float32,compute={dtype if by == 'policy' else 'float32'},output=float32")
    step = train_step(policy.wrap(task.loss), task.optimizer)

    def steps(state: Any, inputs: jax.Array, labels: jax.Array) -> Any:
        def one(state: Any, batch: Any) -> Any:
            params, optimizer, scale, _, finite = step(*state, *batch)
            return (params, optimizer, scale), finite

        return jax.lax.scan(one, state, (inputs, labels))

    if by == "policy" or dtype == "float32":
        return jax.jit(steps, compiler_options=OPTIONS)
    return zenith.jit(steps, f"prepare,cast-precision{{compute={dtype}}}", compiler_options=OPTIONS)


def run(
    task: Task, train: Callable[..., Any], evaluate: Callable[..., Any], scale: Any, seed: int, steps: int
) -> tuple[float, float, int]:
    """Losses on the training and the test data, and how many steps were skipped."""
    params = jax.jit(task.model.init)(jax.random.key(seed), task.train[0][:2])
    state, rng, finite = (params, task.optimizer.init(params), scale), np.random.default_rng(seed), 0
    for _ in range(steps // STEPS_AT_ONCE):
        batches = [task.batch(rng) for _ in range(STEPS_AT_ONCE)]
        state, was_finite = train(state, *(np.stack(arrays) for arrays in zip(*batches, strict=True)))
        finite += int(was_finite.sum())
    return float(evaluate(state[0], *task.train)), float(evaluate(state[0], *task.test)), steps - finite


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", default=",".join(TASKS))
    parser.add_argument("--runs", default=";".join(RUNS), help="separated by semicolons")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument(
        "--steps", type=int, default=0, help=f"instead of each task's own number; a multiple of {STEPS_AT_ONCE}"
    )
    parser.add_argument("--by", choices=("pass", "policy"), default="pass")
    arguments = parser.parse_args()
    table = Table("task", "computing", "training loss", "test loss", "skipped", "s a run")
    for name in arguments.tasks.split(","):
        task = TASKS[name]()
        steps, evaluate = arguments.steps or task.steps, jax.jit(task.loss)
        for kind in arguments.runs.split(";"):
            dtype, scale = RUNS[kind]
            train, start = training(task, dtype, arguments.by), time.perf_counter()
            found = np.array([run(task, train, evaluate, scale, seed, steps) for seed in range(arguments.seeds)])
            seconds = (time.perf_counter() - start) / arguments.seeds
            mean, deviation = found.mean(0), found.std(0)
            row = (
                name, kind, f"{mean[0]:.4f} ± {deviation[0]:.4f}", f"{mean[1]:.4f} ± {deviation[1]:.4f}",
                f"{mean[2]:.1f}", f"{seconds:.1f}",
            )  # fmt: skip
            print("\t".join(row), flush=True)
            table.add_row(*row)
    device = jax.devices()[0]
    table.title = f"by {arguments.by}, {arguments.seeds} seeds, jax {jax.__version__}, {device.device_kind}"
    Console(width=140).print(table)


if __name__ == "__main__":
    main()
