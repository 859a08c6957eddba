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

    bfloat16 and the kinds of float8, which NumPy has no buffers of, go in and out by their bits.

    `mapped` leaves the weights in a file beside the model where they are, without copies in the order that products
    like best.

    Raises:
        ZenithError: if onnxruntime does not take the model.
    """

    def __init__(self, model: bytes | str | os.PathLike[str], mapped: bool = False):
        self._runtime = need("onnxruntime", "onnx")
        options = self._runtime.SessionOptions()
        options.log_severity_level = 4
        if mapped:
            options.add_session_config_entry("session.disable_prepacking", "1")
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
    # Not ascontiguousarray, which makes scalars vectors.
    array = np.asarray(array, order="C")
    if array.dtype in _BITS:
        return value.ortvalue_from_numpy_with_onnx_type(array.view(f"u{array.itemsize}"), _BITS[array.dtype])
    if array.dtype.kind not in "biufc":
        raise ZenithError(f"onnxruntime takes no arrays of {array.dtype} from Python; validate=False does not run it")
    return value.ortvalue_from_numpy(array)


def _array(result: Any) -> Array:
    name = result.data_type().removeprefix("tensor(").removesuffix(")")
    if name not in _BY_NAME:
        if name in ("int4", "uint4"):
            raise ZenithError(f"onnxruntime hands out no arrays of {name} to Python; validate=False does not run it")
        return np.asarray(result.numpy())
    dtype, shape = _BY_NAME[name], result.shape()
    count = int(np.prod(shape)) * dtype.itemsize
    if not count:
        return np.empty(shape, dtype)
    memory = np.ctypeslib.as_array(ctypes.cast(result.data_ptr(), ctypes.POINTER(ctypes.c_uint8)), shape=(count,))
    array: Array = memory.copy().view(dtype).reshape(shape)
    return array


# onnx.TensorProto's numbers of the element types that NumPy has no buffers of.
_BITS = {
    np.dtype(ml_dtypes.bfloat16): 16,
    np.dtype(ml_dtypes.float8_e4m3fn): 17,
    np.dtype(ml_dtypes.float8_e4m3fnuz): 18,
    np.dtype(ml_dtypes.float8_e5m2): 19,
    np.dtype(ml_dtypes.float8_e5m2fnuz): 20,
}
_BY_NAME = {dtype.name.replace("_", ""): dtype for dtype in _BITS}
