"""bfloat16 by cast-precision against bfloat16 by the library's own means: errors against float64.

    python benchmarks/precision_peers.py [--match GPT-2] [--batches 11] [--only forward|train]

Every model runs in float32, told to compute in bfloat16 itself (`library`), and its float32 program through
`default-bf16` (`raised`) and `prepare,cast-precision` (`prepared`), on the same float32 parameters and batches. The
judge is the float32 program with every float in double precision. XLA may keep more bits than a program says
(`xla_allow_excess_precision`); here it must not. An error is |found - exact| / |exact| in the 2-norm, over the logits
of a forward run; over the loss, a number, and over all gradients of a training step. Medians over the batches; each
batch has parameters of its own, those of the initialization moved by a little noise, so that biases and scales are like
trained ones. The last two columns hold the errors over those of the library, batch by batch, and of these the median,
since what makes a batch difficult is the same for all: at most 1 where nothing is lost. The error of a loss, one
number, is chance to a large part. Libraries that are not installed are left out. The exit status says whether a ratio
of logits or gradients is above 1.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
from bf16_models import models
from bf16_models.model import Apply, Model, cross_entropy
from rich.console import Console
from rich.table import Table

import zenith_mlir as zenith
from zenith_mlir.certify.pair import run, widened
from zenith_mlir.ir.executable import Executable, compile_module
from zenith_mlir.ir.float64 import to_float64

# Each program runs for milliseconds, and LLVM's optimizations round nothing.
OPTIONS = {"xla_allow_excess_precision": False, "xla_backend_optimization_level": 0}
PIPELINES = {"raised": "default-bf16", "prepared": "prepare,cast-precision"}
PROGRAMS = ("float32", "library", *PIPELINES)
NOISE = 0.05

Batch = tuple[Any, np.ndarray, np.ndarray]
Program = Callable[..., Any]


def main() -> int:
    arguments = parse()
    table = Table("model", "error of", *PROGRAMS, *(f"{name}/library" for name in PIPELINES))
    worse = 0
    for model in models(arguments.match):
        for kind in KINDS:
            if arguments.only in ("", kind):
                for part, errors in measure(model, kind, arguments.batches).items():
                    ratios = [float(np.median(errors[name] / errors["library"])) for name in PIPELINES]
                    worse += part != "loss" and max(ratios) > 1
                    medians = (np.median(errors[name]) for name in PROGRAMS)
                    row = [*(f"{error:.2e}" for error in medians), *(f"{ratio:.2f}" for ratio in ratios)]
                    table.add_row(model.name, part, *row)
                    print(model.name, part, *row, sep="\t", file=sys.stderr, flush=True)
    Console(width=140).print(table)
    return 1 if worse else 0


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--match", default="", help="only models whose name holds this")
    parser.add_argument("--batches", type=int, default=11)
    parser.add_argument("--only", default="", choices=("forward", "train"))
    return parser.parse_args()


def forward(apply: Apply) -> Program:
    return lambda parameters, inputs, labels: apply(parameters, inputs)


def train(apply: Apply) -> Program:
    def loss(parameters: Any, inputs: jax.Array, labels: jax.Array) -> jax.Array:
        return cross_entropy(apply(parameters, inputs), labels)

    return jax.value_and_grad(loss)


@dataclass(frozen=True)
class Kind:
    """A program to measure, and which of its results are judged together under which name."""

    program: Callable[[Apply], Program]
    parts: dict[str, slice]


KINDS = {
    "forward": Kind(forward, {"logits": slice(None)}),
    "train": Kind(train, {"loss": slice(1), "gradients": slice(1, None)}),
}


def measure(model: Model, kind: str, batches: int) -> dict[str, dict[str, np.ndarray]]:
    """For each part of the results the errors of PROGRAMS, one for each batch."""
    wide, narrow, parameters = model.build("float32"), model.build("bfloat16"), model.parameters()
    drawn = [draw(model, wide, parameters, seed) for seed in range(batches)]
    program, parts = KINDS[kind].program, KINDS[kind].parts
    executables, judge = compiled(program(wide), program(narrow), drawn[0])
    errors: dict[str, dict[str, list[float]]] = {part: {name: [] for name in PROGRAMS} for part in parts}
    for batch in drawn:
        arrays = [np.asarray(leaf) for leaf in jax.tree.leaves(batch)]
        exact = run(judge, map(widened, arrays))
        for name, executable in executables.items():
            found = run(executable, arrays)
            for part, chosen in parts.items():
                errors[part][name].append(relative(found[chosen], exact[chosen]))
    return {part: {name: np.array(own) for name, own in of.items()} for part, of in errors.items()}


def draw(model: Model, apply: Apply, parameters: Any, seed: int) -> Batch:
    generator = np.random.default_rng(seed)
    inputs = model.inputs(generator)
    logits = jax.eval_shape(apply, parameters, inputs)
    labels = generator.integers(0, logits.shape[-1], logits.shape[:-1]).astype(np.int32)
    moved = jax.tree.map(lambda x: np.float32(x + NOISE * generator.normal(size=x.shape)), parameters)
    return moved, inputs, labels


def compiled(wide: Program, narrow: Program, batch: Batch) -> tuple[dict[str, Executable], Executable]:
    """PROGRAMS, and the judge."""
    original = zenith.trace(wide, *batch)
    modules = {"float32": original, "library": zenith.trace(narrow, *batch)}
    modules |= {name: original.run(pipeline, target="cpu") for name, pipeline in PIPELINES.items()}
    executables = {name: compile_module(own, "cpu", compiler_options=OPTIONS) for name, own in modules.items()}
    return executables, compile_module(to_float64(original), "cpu", compiler_options=OPTIONS)


def relative(found: Sequence[np.ndarray], exact: Sequence[np.ndarray]) -> float:
    """|found - exact| / |exact|."""
    distance = sum(float(np.sum(np.square(widened(a) - b))) for a, b in zip(found, exact, strict=True))
    return float(np.sqrt(distance / sum(float(np.sum(np.square(b))) for b in exact)))


if __name__ == "__main__":
    sys.exit(main())
