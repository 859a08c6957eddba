"""One stored module: its results under XLA, and its ONNX model against them."""

from __future__ import annotations

import math
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import zenith_mlir as zenith
from exporting.compare import agreement
from exporting.judge import summary
from exporting.runtime import feeds, run, session
from exporting.size import kibibytes, nodes
from zenith_mlir.certify.compare import random_inputs
from zenith_mlir.certify.pair import run as execute
from zenith_mlir.errors import ZenithError
from zenith_mlir.ir.float64 import to_float64


@dataclass(frozen=True)
class Outcome:
    """`status` is ok, as near, wrong, refused (by a ZenithError), failed (by any other error of the export) or runtime
    error.

    `error` is the largest difference from XLA relative to the scale of each result, `xla_error` and `own_error` those
    of XLA's results and of the model's from a float64 run of the module. Where the program magnifies rounding, all
    three are large: a model that is at most twice as far from float64 as XLA is "as near".
    """

    status: str
    detail: str = ""
    error: float = math.nan
    xla_error: float = math.nan
    own_error: float = math.nan
    nodes: int = 0
    kib: float = math.nan
    seconds: float = math.nan


def outcome(_: None, path: Path, float64: bool) -> Outcome:
    """On random inputs that make sense to the program, see certify/roles.py."""
    module = zenith.load(path)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "model.onnx"
        start = time.perf_counter()
        try:
            module.to_onnx(file)
        except ZenithError as error:
            return Outcome("refused", summary(error))
        except Exception as error:
            return Outcome("failed", summary(error))
        sizes = {"nodes": nodes(file), "kib": kibibytes(file), "seconds": time.perf_counter() - start}
        executable = module.compile("cpu")
        inputs = random_inputs(module, 0, executable).arrays
        expected = execute(executable, inputs)
        try:
            model = session(file)
            found = run(model, feeds(model, inputs))
        except Exception as error:
            return Outcome("runtime error", summary(error), **sizes)
    agreed = agreement(found, expected)
    errors = _distances(module, inputs, expected, found) if float64 else (math.nan, math.nan)
    detail = agreed.fault or agreed.types
    near = bool(agreed.fault) and errors[1] <= 2 * errors[0]
    return Outcome("as near" if near else "wrong" if detail else "ok", detail, agreed.error, *errors, **sizes)


def _distances(module: zenith.Module, inputs: Sequence[NDArray[Any]], *found: list[NDArray[Any]]) -> tuple[float, ...]:
    """Of several results from a float64 run."""
    wide = [x.astype(np.float64) if x.dtype.kind == "f" or x.dtype.name == "bfloat16" else x for x in inputs]
    exact = execute(to_float64(module).compile("cpu"), wide)
    cast = ([x.astype(y.dtype) for x, y in zip(each, exact, strict=True)] for each in found)
    return tuple(agreement(each, exact).error for each in cast)
