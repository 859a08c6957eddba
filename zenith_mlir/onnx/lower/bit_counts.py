"""Counting bits: population counts and leading zeros."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import onnx_ir as oir
from jaxlib.mlir import ir

from zenith_mlir.onnx.arrange import elementwise
from zenith_mlir.onnx.builder import Builder
from zenith_mlir.onnx.convert import Lowering, Walk
from zenith_mlir.onnx.lower.number import BITS, UNSIGNED, splat_view
from zenith_mlir.onnx.view import View

__all__ = ["BIT_COUNTS"]

_D = oir.DataType


def _popcnt(walk: Walk, op: ir.Operation) -> Sequence[View]:
    """The sum over bytes, each looked up."""
    builder, x = walk.builder, walk.view(op.operands[0])
    bits = BITS[x.dtype]
    value, stored = builder.cast(x.value, UNSIGNED[bits]), list(builder.shape(x.value))
    single, last, count = builder.reshape(value, [*stored, 1]), len(stored), bits // 8
    if count > 1:
        amounts = builder.constant(8 * np.arange(count), UNSIGNED[bits])
        shifted = builder.op("BitShift", single, amounts, shape=[*stored, count], direction="RIGHT")
        single = builder.op("Mod", shifted, builder.scalar(256, UNSIGNED[bits]), shape=[*stored, count])
    table = builder.constant(np.array([i.bit_count() for i in range(256)], np.int32))
    counts = builder.op("Gather", table, builder.cast(single, _D.INT32), shape=[*stored, count], axis=0)
    total = builder.op("ReduceSum", counts, builder.ints([last]), shape=stored, keepdims=0)
    return [x.with_value(builder.cast(total, x.dtype))]


def _count_leading_zeros(walk: Walk, op: ir.Operation) -> Sequence[View]:
    builder, x = walk.builder, walk.view(op.operands[0])
    bits = BITS[x.dtype]
    unsigned = x.with_value(builder.cast(x.value, UNSIGNED[bits]))
    if bits < 64:
        zeros = _leading_zeros(builder, unsigned, bits)
    else:
        half = splat_view(walk, 32, unsigned)
        high = elementwise(builder, "BitShift", unsigned, half, direction="RIGHT")
        low = unsigned.with_value(builder.cast(unsigned.value, _D.UINT32))
        behind = _leading_zeros(builder, low, 64)
        empty = elementwise(builder, "Equal", high, splat_view(walk, 0, high), dtype=_D.BOOL)
        zeros = elementwise(builder, "Where", empty, behind, _leading_zeros(builder, high, 32), dtype=_D.INT32, data=1)
    return [zeros.with_value(builder.cast(zeros.value, x.dtype))]


def _leading_zeros(builder: Builder, x: View, bits: int) -> View:
    """bits - 1 - floor(log2 x), for x below 2^32, in int32.

    With 0.6 added, no logarithm is so near to an integer that rounding decides, and that of 0 is between -1 and 0.
    """

    def number(value: float) -> View:
        return View(builder.scalar(value, _D.DOUBLE), (None,) * x.rank, x.shape)

    wide = x.with_value(builder.cast(x.value, _D.DOUBLE))
    log = elementwise(builder, "Log", elementwise(builder, "Add", wide, number(0.6)))
    place = elementwise(builder, "Floor", elementwise(builder, "Mul", log, number(1 / math.log(2))))
    zeros = elementwise(builder, "Sub", number(bits - 1), place)
    return zeros.with_value(builder.cast(zeros.value, _D.INT32))


BIT_COUNTS: dict[str, Lowering] = {
    "stablehlo.popcnt": _popcnt,
    "stablehlo.count_leading_zeros": _count_leading_zeros,
}
