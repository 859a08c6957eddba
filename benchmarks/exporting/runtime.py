"""onnxruntime on one core."""

from __future__ import annotations

import ctypes
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import onnxruntime
from numpy.typing import NDArray

Feeds = dict[str, onnxruntime.OrtValue]

_DTYPES = {
    "float": "float32", "double": "float64", "float16": "float16", "bfloat16": "bfloat16", "int8": "int8",
    "int16": "int16", "int32": "int32", "int64": "int64", "uint8": "uint8", "uint16": "uint16", "uint32": "uint32",
    "uint64": "uint64", "bool": "bool",
}  # fmt: skip
_BFLOAT16 = 16  # in onnx.TensorProto


def session(path: Path, optimized: bool = True) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 4
    if not optimized:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def feeds(
    model: onnxruntime.InferenceSession, arrays: Sequence[NDArray[Any]], named: Mapping[str, Any] | None = None
) -> Feeds:
    """The inputs of a model by name: `named` ones, and the arrays in order, in the dtypes that it wants. Complex
    numbers are pairs in a last axis where it takes reals.
    """
    named, rest, out = named or {}, list(arrays), {}
    for wanted in model.get_inputs():
        if wanted.name not in named and not rest:
            raise ValueError(f"nothing to give to the input {wanted.name}")
        array = np.asarray(named[wanted.name] if wanted.name in named else rest.pop(0))
        dtype = np.dtype(_DTYPES.get(wanted.type.removeprefix("tensor(").removesuffix(")"), array.dtype))
        if array.dtype.kind == "c" and dtype.kind == "f":
            array = np.stack([array.real, array.imag], -1)
        out[wanted.name] = _value(np.ascontiguousarray(array, dtype).reshape(array.shape))
    if rest:
        raise ValueError(f"the model has {len(model.get_inputs())} inputs, {len(rest)} fewer than arguments")
    return out


def run(model: onnxruntime.InferenceSession, given: Feeds) -> list[NDArray[Any]]:
    return [_array(value) for value in model.run_with_ort_values(None, given)]


def _value(array: NDArray[Any]) -> onnxruntime.OrtValue:
    if array.dtype == ml_dtypes.bfloat16:
        return onnxruntime.OrtValue.ortvalue_from_numpy_with_onnx_type(array.view(np.uint16), _BFLOAT16)
    return onnxruntime.OrtValue.ortvalue_from_numpy(array)


def _array(value: onnxruntime.OrtValue) -> NDArray[Any]:
    """NumPy's array; onnxruntime makes none of bfloat16."""
    if value.element_type() != _BFLOAT16:
        return np.asarray(value.numpy())
    shape = value.shape()
    words = (ctypes.c_uint16 * math.prod(shape)).from_address(value.data_ptr())
    return np.frombuffer(words, ml_dtypes.bfloat16).reshape(shape).copy()
