"""What insert-remat saves on the CPU, and what it costs.

    python benchmarks/remat.py budgets [--scan]     ten budgets of a 12-layer transformer step, predicted and measured;
                                                    or others, with --budgets 20%,140MiB
    python benchmarks/remat.py policies [--scan]    beside jax.checkpoint a layer with its policies, at equal memory
    python benchmarks/remat.py batch                the largest batch in a fixed budget, with and without it
    python benchmarks/remat.py corpus DIR           training modules of a folder at half of their residual bytes

Memory is XLA's temp_size_in_bytes, FLOPs are those of its cost_analysis (which counts the body of a loop once, so both
columns of a scan are relative), errors are relative to the largest result of the program as it is.
"""

from __future__ import annotations

import argparse
import glob
import os
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import jax
import numpy as np
from cases.remat import MODELS, transformer
from rich.console import Console
from rich.table import Table

import zenith_mlir as zenith
from zenith_mlir.ir.compiler_options import KEEP_BARRIERS
from zenith_mlir.memory.sizes import format_bytes

MIB = 2**20
Row = tuple[str, ...]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=TABLES)
    parser.add_argument("folder", nargs="?", default="", help="of modules whose name ends in __train.mlir")
    parser.add_argument("--scan", action="store_true", help="the layers as one scan")
    parser.add_argument("--model", default="", help="only models with this in their names, for batch")
    parser.add_argument("--budget", type=int, default=512 * MIB, help="bytes, for batch")
    tens = ",".join(f"{percent}%" for percent in range(100, 0, -10))
    parser.add_argument("--budgets", default=tens, help="for budgets; those in bytes are held to measurements")
    arguments = parser.parse_args()
    columns, rows = TABLES[arguments.what]
    table = Table(*columns, title=f"{arguments.what}, jax {jax.__version__}")
    for row in rows(arguments):
        table.add_row(*row)
        print("\t".join(row), flush=True)
    Console(width=160).print(table)


def budgets(arguments: argparse.Namespace) -> Iterator[Row]:
    function, values = transformer(scan=arguments.scan)
    module = zenith.trace(function, *values).run("prepare")
    plain = module.compile("cpu")
    flops, expected = plain.cost_analysis()["flops"], plain(*jax.tree.leaves(values))
    yield ("as it is", "", mib(temporaries(plain)), "1.00", "1.000", "", "")
    for budget in arguments.budgets.split(","):
        start = time.perf_counter()
        try:
            measure = "false" if budget.endswith("%") else "true"
            after = module.run(f"insert-remat{{budget={budget} measure={measure}}}")
        except zenith.PassError as error:
            yield (budget, "", "", "", "", str(error).split(";")[0].split(": ", 1)[1], "")
            continue
        seconds = time.perf_counter() - start
        told = next((r.args for r in after.remarks if r.kind == "passed"), {})
        compiled = after.compile("cpu")
        results = compiled(*jax.tree.leaves(values))
        yield (
            budget,
            mib(told.get("predicted", 0)),
            mib(temporaries(compiled)),
            f"{temporaries(plain) / temporaries(compiled):.2f}",
            f"{compiled.cost_analysis()['flops'] / flops:.3f}",
            f"{difference(results, expected):.1e}",
            f"{seconds:.1f}",
        )


POLICIES: dict[str, Callable[..., bool] | None] = {
    "nothing_saveable": None,
    "dots_saveable": jax.checkpoint_policies.dots_saveable,
    "dots_with_no_batch_dims_saveable": jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
    "everything_saveable": jax.checkpoint_policies.everything_saveable,
}


def policies(arguments: argparse.Namespace) -> Iterator[Row]:
    plain_function, values = transformer(scan=arguments.scan)
    module = zenith.trace(plain_function, *values).run("prepare")
    for name, policy in POLICIES.items():
        function, values = transformer(scan=arguments.scan, wrap=partial(jax.checkpoint, policy=policy))
        theirs = jax.jit(function).lower(*values).compile(compiler_options=KEEP_BARRIERS)
        memory, flops = temporaries(theirs), theirs.cost_analysis()["flops"]
        ours = module.run(f"insert-remat{{budget={memory}}}").compile("cpu")
        yield (
            name,
            mib(memory),
            mib(temporaries(ours)),
            f"{flops / 1e9:.1f}",
            f"{ours.cost_analysis()['flops'] / 1e9:.1f}",
        )


def batch(arguments: argparse.Namespace) -> Iterator[Row]:
    for name, build in MODELS.items():
        if arguments.model not in name:
            continue
        without = largest(build, arguments.budget, lambda module, budget: module)
        with_ = largest(build, arguments.budget, lambda module, budget: module.run(f"insert-remat{{budget={budget}}}"))
        yield (name, format_bytes(arguments.budget), str(without), str(with_), f"{with_ / max(without, 1):.1f}")


def largest(build: Callable[[int], Any], budget: int, rewrite: Callable[[zenith.Module, int], zenith.Module]) -> int:
    """The largest batch, of those tried, whose temporaries fit: doubled from 4 until none does, then bisected twice."""

    def fits(size: int) -> bool:
        function, values = build(size)
        try:
            after = rewrite(zenith.trace(function, *values).run("prepare"), budget)
        except zenith.PassError:
            return False
        return temporaries(after.compile("cpu")) <= budget

    low, high = 0, 4
    while fits(high):
        low, high = high, high * 2
    step = (high - low) // 2
    for _ in range(2):
        if step and fits(low + step):
            low += step
        step //= 2
    return low


def corpus(arguments: argparse.Namespace) -> Iterator[Row]:
    for path in sorted(glob.glob(os.path.join(arguments.folder, "*__train.mlir"))):
        name = os.path.basename(path).removesuffix("__train.mlir")
        module = zenith.load(path).run("prepare")
        try:
            after = module.run("insert-remat{budget=50% min-bytes=0}")
        except zenith.PassError as error:
            yield (name, "", "", "", "", str(error).split("failed: ")[1].split(";")[0])
            continue
        (told,) = [r for r in after.remarks if r.kind != "analysis"] or [None]
        if told is None or told.kind == "missed":
            yield (name, "", "", "", "", "as it is" if told is None else told.reason)
            continue
        values = [sample(spec) for spec in module.input_specs]
        before, now = module.compile("cpu"), after.compile("cpu")
        error = difference(now(*values), before(*values))
        args = told.args
        yield (name, mib(args["predicted"]), mib(args["before"]), mib(args["measured"]), f"{error:.1e}", "met")


def sample(spec: Any) -> np.ndarray:
    """Small numbers; indices of 0 and 1 are valid for every table."""
    rng = np.random.default_rng(0)
    if spec.dtype == np.bool_:
        return np.ones(spec.shape, bool)
    if np.issubdtype(spec.dtype, np.integer):
        return rng.integers(0, 2, spec.shape).astype(spec.dtype)
    return (0.1 * rng.standard_normal(spec.shape)).astype(spec.dtype)


def temporaries(compiled: Any) -> int:
    return int(compiled.memory_analysis().temp_size_in_bytes)


def difference(results: Any, expected: Any) -> float:
    """The largest over all results, relative to the largest number in each; NaN where only one of them has it."""
    found = [0.0]
    for now, was in zip(results, expected, strict=True):
        a, b = np.asarray(now, np.float64), np.asarray(was, np.float64)
        same = np.isnan(a) & np.isnan(b)
        a, b = np.where(same, 0, a), np.where(same, 0, b)
        if b.size:
            found.append(np.abs(a - b).max() / (np.abs(b).max() + 1e-30))
    return float(np.max(found))


def mib(size: int) -> str:
    return f"{size / MIB:.1f}"


TABLES: dict[str, tuple[Row, Callable[[argparse.Namespace], Iterator[Row]]]] = {
    "budgets": (("budget", "predicted MiB", "measured MiB", "times less", "FLOPs", "error", "seconds"), budgets),
    "policies": (("jax.checkpoint policy", "MiB", "insert-remat MiB", "GFLOP", "insert-remat GFLOP"), policies),
    "batch": (("model", "budget", "largest batch", "with insert-remat", "times"), batch),
    "corpus": (("module", "predicted MiB", "before MiB", "after MiB", "error", "outcome"), corpus),
}

if __name__ == "__main__":
    main()
