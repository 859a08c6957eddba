"""Models as written in float32, as jax.jit compiles them and through the pipelines, also in bfloat16: time and memory.

    taskset -c 0-7 python benchmarks/precision_speed.py [--models bert-128,gpt2] [--layers N] [--rounds N]

    bert-128, bert-512  the encoder of BERT-base (12 layers, batch 8) forward
    gpt2                a training step of GPT-2 small (Hugging Face Flax; batch 4, sequence 512) with AdamW

Columns: `jit` is jax.jit of the program as it is; `default` the pipeline of that name, in float32; `bf16` the pipeline
`default-bf16`. The executables run in turn, one after the other in every round; prints medians and minima in ms, how
many times faster than `jit` the median is, and XLA's temporary memory. `error` is the largest difference of the last
result (the loss) from that of `jit`, relative to its largest value.
"""

from __future__ import annotations

import argparse
import functools
import os
import statistics
import time
from collections.abc import Callable
from typing import Any

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import jax
import numpy as np
from cases import bert
from rich.console import Console
from rich.table import Table
from train_step import Step, gpt2

import zenith_mlir as zenith

PIPELINES = {"jit": "", "default": "default", "bf16": "default-bf16"}


def bert_base(length: int, layers: int) -> Step:
    bert.LAYERS = layers
    (family,) = bert.FAMILIES
    case = next(case for case in family.cases if case["S"] == length and case.dtype == "float32")
    return family.formula(case), tuple(value.make(i) for i, value in enumerate(family.inputs(case)))


MODELS: dict[str, Callable[[int], Step]] = {
    "bert-128": functools.partial(bert_base, 128),
    "bert-512": functools.partial(bert_base, 512),
    "gpt2": gpt2,
}


def compiled(function: Callable[..., Any], arguments: tuple[Any, ...], pipeline: str) -> Any:
    if not pipeline:
        return jax.jit(function).lower(*arguments).compile()
    with zenith.pipeline(pipeline, strict=True):
        return jax.jit(function).lower(*arguments).compile()


def measure(name: str, layers: int, rounds: int, table: Table) -> None:
    function, arguments = MODELS[name](layers)
    programs = {kind: compiled(function, arguments, pipeline) for kind, pipeline in PIPELINES.items()}
    times: dict[str, list[float]] = {kind: [] for kind in programs}
    first: dict[str, np.ndarray] = {}
    for _ in range(rounds + 1):
        for kind, program in programs.items():
            start = time.perf_counter()
            result = jax.block_until_ready(program(*arguments))
            times[kind].append(1e3 * (time.perf_counter() - start))
            first[kind] = np.asarray(jax.tree.leaves(result)[-1], np.float64)
    reference = statistics.median(times["jit"][1:])
    least = programs["jit"].memory_analysis().temp_size_in_bytes
    for kind, program in programs.items():
        median, memory = statistics.median(times[kind][1:]), program.memory_analysis().temp_size_in_bytes
        error = np.abs(first[kind] - first["jit"]).max() / np.abs(first["jit"]).max()
        row = (
            f"{name}, {layers} layers", kind, f"{median:.1f} ({min(times[kind][1:]):.1f})", f"{reference / median:.2f}",
            f"{memory / 2**20:.0f}", f"{memory / least:.2f}", f"{error:.1e}",
        )  # fmt: skip
        print("\t".join(row), flush=True)
        table.add_row(*row)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", default=",".join(MODELS), help="comma-separated (default: %(default)s)")
    parser.add_argument("--layers", type=int, default=12)
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    table = Table("model", "program", "ms (min)", "times faster", "temporaries MiB", "of jit", "error")
    for name in arguments.models.split(","):
        measure(name, arguments.layers, arguments.rounds, table)
    table.title = f"jax {jax.__version__}, {len(os.sched_getaffinity(0))} cores"
    Console(width=120).print(table)


if __name__ == "__main__":
    main()
