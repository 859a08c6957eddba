"""cast-precision on every module of a folder: does it hold what it promises, and what does it cost in accuracy?

    python benchmarks/precision_corpus.py FOLDER... [--match gpt2] [--compute f16] [--policy conservative] [--raise]

With --no-run nothing is executed. Each .mlir file is prepared, cast and verified. The table says whether a second run
changes nothing, how many violations (zenith_mlir/precision/cast/check.py) the cast added, how many products have
operands of 16 bits, and the relative error, in the 2-norm over all results, against a float64 run of the original on
random inputs: of the program as it is and of the cast one, with the bytes of temporaries of both.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

import zenith_mlir as zenith
from zenith_mlir.certify.compare import random_inputs
from zenith_mlir.errors import ZenithError
from zenith_mlir.ir.facts import element_type, walk_named
from zenith_mlir.ir.float64 import to_float64
from zenith_mlir.precision.cast.check import violations
from zenith_mlir.precision.cast.classes import PRODUCTS

CHECKS = ("verified", "idempotent", "signature", "violations", "16-bit products")
COLUMNS = ("module", *CHECKS, "f32 error", "error", "KiB", "KiB f32")


def main() -> int:
    arguments = parse()
    table = Table(*COLUMNS)
    failed = 0
    for path in sorted(file for folder in arguments.folders for file in Path(folder).glob("*.mlir")):
        if arguments.match in path.name:
            row = examine(path, arguments)
            failed += "no" in row
            table.add_row(*row)
            print(*row, sep="\t", file=sys.stderr, flush=True)
    Console(width=200).print(table)
    return 1 if failed else 0


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="+", help="folders of .mlir files")
    parser.add_argument("--match", default="", help="only files whose name holds this")
    parser.add_argument("--compute", default="bf16")
    parser.add_argument("--policy", default="default")
    parser.add_argument("--raise", dest="raised", action="store_true", help="raise before, and lower to kernels behind")
    parser.add_argument("--no-run", dest="run", action="store_false", help="look at the programs only")
    return parser.parse_args()


def examine(path: Path, arguments: argparse.Namespace) -> list[str]:
    """A row of the table."""
    original = zenith.load(path)
    prepared = original.run("raise" if arguments.raised else "prepare")
    options = f'{{compute={arguments.compute} policy="{arguments.policy}"}}'
    try:
        cast = prepared.run(f"cast-precision{options}")
    except ZenithError as error:
        return [path.stem, "no", str(error)[:80]]
    twice = cast.run(f"cast-precision{options}")
    added = set(violations(cast.operation)) - set(violations(prepared.operation))
    return [
        path.stem,
        yes(cast.operation.verify()),
        yes(twice.text() == cast.text()),
        yes(cast.input_specs == prepared.input_specs),
        str(len(added)),
        narrow_products(cast),
        *(run(original, cast, arguments) if arguments.run else []),
    ]


def yes(holds: bool) -> str:
    return "yes" if holds else "no"


def narrow_products(module: zenith.Module) -> str:
    products = walk_named(module.operation, *PRODUCTS)
    narrow = [op for op in products if all(str(element_type(value)) in ("bf16", "f16") for value in op.operands)]
    return f"{len(narrow)} of {len(products)}"


def run(original: zenith.Module, cast: zenith.Module, arguments: argparse.Namespace) -> list[str]:
    """Errors of the original and of the cast program, and their temporaries."""
    plain = original.compile("cpu")
    behind = cast.run("raise-matmul,lower-kernels") if arguments.raised else cast
    narrow = behind.compile("cpu")
    inputs = random_inputs(original, 0, plain).arrays
    wide = [x.astype(np.float64) if is_float(x) else x for x in map(np.asarray, inputs)]
    exact = floats(to_float64(original).compile("cpu")(*wide))
    errors = [relative(floats(each(*inputs)), exact) for each in (plain, narrow)]
    bytes_ = [each.memory_analysis().temp_size_in_bytes // 1024 for each in (narrow, plain)]
    return [*(f"{error:.1e}" for error in errors), *map(str, bytes_)]


def is_float(array: np.ndarray) -> bool:
    return array.dtype.kind == "f" or array.dtype.name == "bfloat16"


def floats(results: Iterable[object]) -> list[np.ndarray]:
    return [x.astype(np.float64) for x in map(np.asarray, results) if is_float(x)]


def relative(found: list[np.ndarray], exact: list[np.ndarray]) -> float:
    """|found - exact| / |exact| over all results; where both are infinite or NaN they agree."""
    distance = size = 0.0
    for a, b in zip(found, exact, strict=True):
        finite = np.isfinite(b)
        distance += float(np.sum(np.square(a[finite] - b[finite])))
        size += float(np.sum(np.square(b[finite])))
    return float(np.sqrt(distance / size)) if size else 0.0


if __name__ == "__main__":
    sys.exit(main())
