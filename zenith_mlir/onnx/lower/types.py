"""Conversions between element types, as XLA does them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx_ir as oir
from jaxlib.mlir import ir

from zenith_mlir.ir.facts import keeps_precision
from zenith_mlir.onnx.arrange import elementwise
from zenith_mlir.onnx.convert import Lowering, NotConvertible, Walk, onnx_type
from zenith_mlir.onnx.lower.number import BITS, is_float, is_integer, splat_view
from zenith_mlir.onnx.view import View

__all__ = ["TYPES", "converted"]

_D = oir.DataType


def _convert(walk: Walk, op: ir.Operation) -> Sequence[View]:
    return [converted(walk, walk.view(op.operands[0]), onnx_type(op.results[0]))]


def converted(walk: Walk, view: View, dtype: oir.DataType) -> View:
    """Floats to integers towards zero, ending at the largest and the smallest, NaN as 0; to booleans by `!= 0`."""
    if is_float(view.dtype) and is_integer(dtype) and walk.builder.array(view.value) is None:
        return _saturated(walk, view, dtype)
    return view.with_value(walk.builder.cast(view.value, dtype))


def _saturated(walk: Walk, view: View, dtype: oir.DataType) -> View:
    """ONNX leaves open what a number becomes that the integer type does not have."""
    builder, info = walk.builder, np.iinfo(dtype.numpy())
    exact = view.with_value(builder.cast(view.value, _D.DOUBLE if BITS[dtype] > 16 else _D.FLOAT))
    unordered = elementwise(builder, "IsNaN", exact, dtype=_D.BOOL)
    number = elementwise(builder, "Where", unordered, splat_view(walk, 0, exact), exact, dtype=exact.dtype, data=1)
    low, high = (builder.scalar(bound, exact.dtype) for bound in _bounds(info))
    clipped = number.with_value(builder.op("Clip", number.value, low, high, shape=builder.shape(number.value)))
    result = clipped.with_value(builder.cast(clipped.value, dtype))
    if BITS[dtype] < 64:
        return result
    # The largest integers of 64 bits lie between two floats of 64 bits: of these the lower was the bound.
    above = elementwise(builder, "GreaterOrEqual", number, splat_view(walk, float(info.max), number), dtype=_D.BOOL)
    return elementwise(builder, "Where", above, splat_view(walk, info.max, result), result, dtype=dtype, data=1)


def _bounds(info: np.iinfo) -> tuple[float, float]:
    low, high = float(info.min), float(info.max)
    return low, high if int(high) <= info.max else float(np.nextafter(high, 0))


def _reduce_precision(walk: Walk, op: ir.Operation) -> Sequence[View]:
    view = walk.view(op.operands[0])
    if keeps_precision(op):
        return [view]
    bits = (_bits(op, "exponent_bits"), _bits(op, "mantissa_bits"))
    narrow = {(5, 10): _D.FLOAT16, (8, 7): _D.BFLOAT16, (8, 23): _D.FLOAT}.get(bits)
    if narrow is None:
        raise NotConvertible(f"ONNX has no float of {bits[0]} exponent and {bits[1]} mantissa bits")
    rounded = walk.builder.cast(view.value, narrow)
    return [view.with_value(walk.builder.cast(rounded, view.dtype))]


def _bits(op: ir.Operation, name: str) -> int:
    return int(ir.IntegerAttr(op.attributes[name]).value)


TYPES: dict[str, Lowering] = {
    "stablehlo.convert": _convert,
    "stablehlo.reduce_precision": _reduce_precision,
}
