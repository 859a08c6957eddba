"""Complex inputs and outputs: as files have them, with a last dimension of 2 for the real and the imaginary part."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as oir
from jaxlib.mlir import ir

from zenith_mlir.ir.facts import shape
from zenith_mlir.onnx.arrange import dense
from zenith_mlir.onnx.builder import Builder
from zenith_mlir.onnx.convert import Walk
from zenith_mlir.onnx.lower.complex import parts_of
from zenith_mlir.onnx.view import View

__all__ = ["as_parts", "joined", "part_type", "split"]

_PARTS = {oir.DataType.COMPLEX64: oir.DataType.FLOAT, oir.DataType.COMPLEX128: oir.DataType.DOUBLE}


def part_type(dtype: oir.DataType) -> oir.DataType:
    """Of the real and the imaginary part; other types are themselves."""
    return _PARTS.get(dtype, dtype)


def split(builder: Builder, view: View) -> tuple[View, View]:
    """The real and the imaginary part of an input, whose last dimension they are."""
    dims = view.shape[:-1]
    value = dense(builder, view)
    parts = (builder.scalar(k, oir.DataType.INT64) for k in (0, 1))
    real, imaginary = (View.of(builder.op("Gather", value, k, shape=dims, axis=len(dims)), dims) for k in parts)
    return real, imaginary


def joined(walk: Walk, value: ir.Value) -> View:
    """A complex result as an output."""
    builder, dims = walk.builder, (*shape(value), 1)
    columns = [builder.reshape(dense(builder, part), dims) for part in parts_of(walk, value)]
    packed = (*shape(value), 2)
    return View.of(builder.op("Concat", *columns, shape=packed, axis=len(dims) - 1), packed)


def as_parts(array: Any) -> np.ndarray[Any, Any]:
    """An array as inputs and outputs of the file have it."""
    array = np.asarray(array)
    return array if array.dtype.kind != "c" else np.stack([array.real, array.imag], -1)
