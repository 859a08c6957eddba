"""Element types by kind, and numbers as views."""

from __future__ import annotations

from typing import Any

import onnx_ir as oir

from zenith_mlir.onnx.convert import Walk
from zenith_mlir.onnx.view import View

__all__ = ["BITS", "SIGNED", "UNSIGNED", "is_float", "is_integer", "splat_view"]

_D = oir.DataType
SIGNED = {8: _D.INT8, 16: _D.INT16, 32: _D.INT32, 64: _D.INT64}
UNSIGNED = {8: _D.UINT8, 16: _D.UINT16, 32: _D.UINT32, 64: _D.UINT64}
BITS = {dtype: bits for table in (SIGNED, UNSIGNED) for bits, dtype in table.items()}


def is_float(dtype: oir.DataType) -> bool:
    return dtype.is_floating_point()


def is_integer(dtype: oir.DataType) -> bool:
    return dtype in BITS


def splat_view(walk: Walk, number: Any, like: View, dtype: oir.DataType | None = None) -> View:
    """`number` everywhere in the shape of `like`, in its dtype unless given."""
    return View(walk.builder.scalar(number, dtype or like.dtype), (None,) * like.rank, like.shape)
