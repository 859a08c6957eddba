"""Running an ONNX model on onnxruntime's CPU."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Mapping, Sequence
from typing import Any

import ml_dtypes
import numpy as np

from zenith_mlir.errors import ZenithError
from zenith_mlir.optional import need

__all__ = ["Session"]

Array = np.ndarray[Any, Any]


class Session:
    """A loaded model: call it with arrays in the order of its inputs, get those of its outputs.

    bfloat16, which NumPy has no buffers of, goes in and out by its bits.

    Raises:
        ZenithError: if onnxruntime does not take the model.
    """

    def __init__(self, model: bytes | str | os.PathLike[str]):
        self._runtime = need("onnxruntime", "onnx")
        options = self._runtime.SessionOptions()
        options.log_severity_level = 4
        source = model if isinstance(model, bytes) else os.fspath(model)
        try:
            self._session = self._runtime.InferenceSession(source, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # its exceptions have no common base
            raise ZenithError(f"onnxruntime does not take the model: {' '.join(str(error).split())[:600]}") from None
        self.inputs = [each.name for each in self._session.get_inputs()]
        self.outputs = [each.name for each in self._session.get_outputs()]

    def __call__(self, arrays: Sequence[Any]) -> list[Array]:
        if len(arrays) != len(self.inputs):
            names = ", ".join(self.inputs[:20])
            raise ZenithError(f"the model has {len(self.inputs)} inputs ({names}), and {len(arrays)} arrays came")
        return self.named(dict(zip(self.inputs, arrays, strict=True)))

    def named(self, arrays: Mapping[str, Any]) -> list[Array]:
        """The outputs for inputs by name."""
        value = self._runtime.OrtValue
        given = {name: _value(value, np.asarray(array)) for name, array in arrays.items()}
        try:
            results = self._session.run_with_ort_values(None, given)
        except Exception as error:
            raise ZenithError(f"onnxruntime does not run the model: {' '.join(str(error).split())[:600]}") from None
        return [_array(result) for result in results]


def _value(value: Any, array: Array) -> Any:
    array = np.asarray(array, order="C")  # ascontiguousarray makes a row of a number
    if array.dtype.name in _BITS:
        bits, element = _BITS[array.dtype.name]
        return value.ortvalue_from_numpy_with_onnx_type(array.view(bits), element)
    return value.ortvalue_from_numpy(array)


def _array(result: Any) -> Array:
    name = result.data_type().removeprefix("tensor(").removesuffix(")")
    if name != "bfloat16":
        return np.asarray(result.numpy())
    shape = result.shape()
    bits = np.ctypeslib.as_array(_pointer(result), shape=(int(np.prod(shape)),)).copy()
    array: Array = bits.view(ml_dtypes.bfloat16).reshape(shape)
    return array


def _pointer(result: Any) -> Any:
    return ctypes.cast(result.data_ptr(), ctypes.POINTER(ctypes.c_uint16))


# By the name of the dtype: the bits that NumPy has, and onnx.TensorProto's number of the element type.
_BITS = {"bfloat16": (np.uint16, 16)}
