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
    """`status` is ok, wrong, refused (by a ZenithError), failed (by any other error of the export) or runtime error.

    `error` is the largest difference from XLA relative to the scale of each result, `xla_error` that of XLA's results
    from a float64 run of the module: where it is large, the program magnifies rounding.
    """

    status: str
    detail: str = ""
    error: float = math.nan
    xla_error: float = math.nan
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
        xla_error = _distance(module, inputs, expected) if float64 else math.nan
        try:
            model = session(file)
            agreed = agreement(run(model, feeds(model, inputs)), expected)
        except Exception as error:
            return Outcome("runtime error", summary(error), xla_error=xla_error, **sizes)
    detail = agreed.fault or agreed.types
    return Outcome("wrong" if detail else "ok", detail, agreed.error, xla_error, **sizes)


def _distance(module: zenith.Module, inputs: Sequence[NDArray[Any]], found: list[NDArray[Any]]) -> float:
    wide = [x.astype(np.float64) if x.dtype.kind == "f" or x.dtype.name == "bfloat16" else x for x in inputs]
    exact = execute(to_float64(module).compile("cpu"), wide)
    return agreement([x.astype(y.dtype) for x, y in zip(found, exact, strict=True)], exact).error
