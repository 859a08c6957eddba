"""onnxruntime on one core."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray

_DTYPES = {
    "float": "float32", "double": "float64", "float16": "float16", "int8": "int8", "int16": "int16", "int32": "int32",
    "int64": "int64", "uint8": "uint8", "uint16": "uint16", "uint32": "uint32", "uint64": "uint64", "bool": "bool",
}  # fmt: skip


def session(path: Path, optimized: bool = True) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 4
    if not optimized:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def feeds(
    of: onnxruntime.InferenceSession, arrays: Sequence[NDArray[Any]], named: dict[str, Any] | None = None
) -> dict[str, NDArray[Any]]:
    """The inputs of a session by name: `named` ones, and the arrays in order, in the dtypes that it wants. Complex
    numbers are pairs in a last axis where it takes reals.
    """
    named, rest, out = named or {}, list(arrays), {}
    for wanted in of.get_inputs():
        if wanted.name not in named and not rest:
            raise ValueError(f"nothing to give to the input {wanted.name}")
        array = np.asarray(named[wanted.name] if wanted.name in named else rest.pop(0))
        dtype = _DTYPES.get(wanted.type.removeprefix("tensor(").removesuffix(")"))
        if array.dtype.kind == "c" and dtype in ("float32", "float64"):
            array = np.stack([array.real, array.imag], -1)
        out[wanted.name] = array.astype(dtype) if dtype and array.dtype != dtype else array
    if rest:
        raise ValueError(f"the model has {len(of.get_inputs())} inputs, {len(rest)} fewer than arguments")
    return out
