"""stablehlo.bitcast_convert. ONNX has BitCast from opset 26 on; here floats are put together from their sign, exponent
and mantissa, and taken apart again, by arithmetic that is exact. chlo.next_after goes by way of it.

A NaN has one pattern of bits, the positive quiet one: ONNX shows no sign or payload of it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as oir
from jaxlib.mlir import ir

from zenith_mlir.ir.facts import defined_by, shape
from zenith_mlir.onnx.arrange import dense, elementwise
from zenith_mlir.onnx.convert import Lowering, NotConvertible, Walk, onnx_type
from zenith_mlir.onnx.lower.number import BITS, UNSIGNED, is_float, splat_view
from zenith_mlir.onnx.lower.ranges import uniform
from zenith_mlir.onnx.lower.shape import slice_axes
from zenith_mlir.onnx.view import View

__all__ = ["BITCASTS"]

_D = oir.DataType


@dataclass(frozen=True)
class _Format:
    """A float of `bits`, `mantissa` of which hold the fraction; `compute` is the type that has all of its numbers."""

    bits: int
    mantissa: int
    compute: oir.DataType

    @property
    def exponents(self) -> int:
        return 1 << (self.bits - 1 - self.mantissa)

    @property
    def least(self) -> int:
        """The exponent of the smallest normal number."""
        return 2 - self.exponents // 2

    @property
    def infinity(self) -> int:
        return (self.exponents - 1) << self.mantissa


_FORMATS = {
    _D.FLOAT16: _Format(16, 10, _D.FLOAT),
    _D.FLOAT: _Format(32, 23, _D.FLOAT),
    _D.DOUBLE: _Format(64, 52, _D.DOUBLE),
}


def _bitcast_convert(walk: Walk, op: ir.Operation) -> Sequence[View]:
    view, dtype = walk.view(op.operands[0]), onnx_type(op.results[0])
    if view.dtype == dtype:
        return [view]
    fraction = _fraction(walk, op.operands[0], dtype)
    if fraction is not None:
        return [fraction]
    known = (*BITS, *_FORMATS, _D.BFLOAT16)
    if view.dtype not in known or dtype not in known:
        raise NotConvertible(f"bits of {view.dtype.name.lower()} as {dtype.name.lower()} have no ONNX form")
    bits = _resized(walk, _to_bits(walk, view), dtype.bitwidth, shape(op.results[0]))
    return [_from_bits(walk, bits, dtype)]


def _fraction(walk: Walk, value: ir.Value, dtype: oir.DataType) -> View | None:
    """1 + k 2^-m of the bits `(x >> (bits - m)) | bits(1.0)`, k being the shifted x, as jax.random makes floats."""
    either, format_ = defined_by(value, "stablehlo.or"), _FORMATS.get(dtype)
    if either is None or format_ is None:
        return None
    shifted, one = defined_by(either.operands[0], "stablehlo.shift_right_logical"), uniform(either.operands[1])
    if shifted is None or one != (format_.exponents // 2 - 1) << format_.mantissa:
        return None
    if uniform(shifted.operands[1]) != format_.bits - format_.mantissa:
        return None
    k = _cast(walk, walk.view(shifted.results[0]), format_.compute)
    scaled = elementwise(walk.builder, "Mul", k, splat_view(walk, 2.0**-format_.mantissa, k))
    return _cast(walk, elementwise(walk.builder, "Add", scaled, splat_view(walk, 1, k)), dtype)


def _resized(walk: Walk, bits: View, width: int, dims: Sequence[int]) -> View:
    """Integers of `width` bits: of those in the last dimension, the lowest first, or spread along one more."""
    own, target = bits.dtype.bitwidth, UNSIGNED[width]
    if own == width:
        return bits
    if own > width:
        steps = own // width
        stored = View.of(dense(walk.builder, bits), bits.shape)
        wide = View(stored.value, (*stored.axes, None), (*stored.shape, steps))
        amounts = walk.builder.constant(np.arange(steps) * width, bits.dtype)
        line = View(amounts, (*(None for _ in bits.shape), 0), wide.shape)
        return _cast(walk, elementwise(walk.builder, "BitShift", wide, line, direction="RIGHT"), target)
    wide = _cast(walk, bits, target)
    result: View | None = None
    for i in range(width // own):
        starts, limits = [0] * wide.rank, list(wide.shape)
        starts[-1], limits[-1] = i, i + 1
        part = slice_axes(walk.builder, wide, starts, limits, [1] * wide.rank)
        part = View(part.value, part.axes[:-1], tuple(dims))
        if i:
            part = elementwise(walk.builder, "BitShift", part, splat_view(walk, i * own, part), direction="LEFT")
        result = part if result is None else elementwise(walk.builder, "Add", result, part)
    assert result is not None
    return result


def _from_bits(walk: Walk, bits: View, dtype: oir.DataType) -> View:
    if not is_float(dtype):
        return _cast(walk, bits, dtype)
    if dtype == _D.BFLOAT16:
        wide = _cast(walk, bits, _D.UINT32)
        moved = elementwise(walk.builder, "BitShift", wide, splat_view(walk, 16, wide), direction="LEFT")
        return _cast(walk, _from_bits(walk, moved, _D.FLOAT), dtype)
    builder, form = walk.builder, _FORMATS[dtype]
    half = splat_view(walk, 1 << (form.bits - 1), bits)
    magnitude = elementwise(builder, "Mod", bits, half)
    exponent = elementwise(
        builder, "BitShift", magnitude, splat_view(walk, form.mantissa, magnitude), direction="RIGHT"
    )
    fraction = elementwise(builder, "Mod", magnitude, splat_view(walk, 1 << form.mantissa, magnitude))
    powers = [max(e, 1) - 1 + form.least - form.mantissa for e in range(form.exponents)]
    # Without the hidden bit, the numbers of exponent 0 are as far apart as those of exponent 1.
    hidden = _looked_up(walk, [float(e > 0) * 2**form.mantissa for e in range(form.exponents)], exponent, form.compute)
    scale = _looked_up(walk, [math.ldexp(1.0, power) for power in powers], exponent, form.compute)
    digits = elementwise(builder, "Add", _cast(walk, fraction, form.compute), hidden)
    number = elementwise(builder, "Mul", digits, scale)
    beyond = elementwise(builder, "Greater", magnitude, splat_view(walk, form.infinity, magnitude), dtype=_D.BOOL)
    number = _where(walk, beyond, splat_view(walk, math.nan, number), number)
    negative = elementwise(builder, "GreaterOrEqual", bits, half, dtype=_D.BOOL)
    return _cast(walk, _where(walk, negative, elementwise(builder, "Neg", number), number), dtype)


def _to_bits(walk: Walk, x: View) -> View:
    if not is_float(x.dtype):
        return _cast(walk, x, UNSIGNED[x.dtype.bitwidth])
    if x.dtype == _D.BFLOAT16:
        bits = _to_bits(walk, _cast(walk, x, _D.FLOAT))
        moved = elementwise(walk.builder, "BitShift", bits, splat_view(walk, 16, bits), direction="RIGHT")
        return _cast(walk, moved, _D.UINT16)
    if x.dtype == _D.DOUBLE:
        raise NotConvertible("the bits of float64 have no ONNX form: none of its types is exact enough")
    builder, form = walk.builder, _FORMATS[x.dtype]
    wide = _cast(walk, x, _D.DOUBLE)
    unordered = elementwise(builder, "IsNaN", wide, dtype=_D.BOOL)
    size = _where(walk, unordered, splat_view(walk, 0, wide), elementwise(builder, "Abs", wide))
    # Infinity is where the next exponent would begin.
    largest = form.exponents // 2
    size = _clip(walk, size, 0.0, 2.0**largest)
    # No number of the format but a power of two is so near to one that the addition matters.
    log = elementwise(builder, "Mul", elementwise(builder, "Log", size), splat_view(walk, 1 / math.log(2), size))
    near = elementwise(builder, "Add", log, splat_view(walk, 2e-8, log))
    exponent = _clip(walk, elementwise(builder, "Floor", near), form.least, largest)
    above = elementwise(builder, "Sub", exponent, splat_view(walk, form.least, exponent))
    above = _cast(walk, above, _D.INT64)
    scales = [2.0 ** (form.mantissa - e) for e in range(form.least, largest + 1)]
    digits = elementwise(builder, "Mul", size, _looked_up(walk, scales, above, _D.DOUBLE))
    shifted = elementwise(builder, "Mul", above, splat_view(walk, 1 << form.mantissa, above))
    bits = elementwise(builder, "Add", _cast(walk, digits, _D.INT64), shifted)
    # 1 / -0.0 is negative, too.
    zero = elementwise(builder, "Equal", wide, splat_view(walk, 0, wide), dtype=_D.BOOL)
    signed = _where(walk, zero, elementwise(builder, "Div", splat_view(walk, 1, wide), wide), wide)
    negative = elementwise(builder, "Less", signed, splat_view(walk, 0, signed), dtype=_D.BOOL)
    other = elementwise(builder, "Add", bits, splat_view(walk, 1 << (form.bits - 1), bits))
    bits = _where(walk, negative, other, bits)
    quiet = splat_view(walk, form.infinity + (1 << (form.mantissa - 1)), bits)
    return _cast(walk, _where(walk, unordered, quiet, bits), UNSIGNED[form.bits])


def _looked_up(walk: Walk, numbers: Sequence[float], index: View, dtype: oir.DataType) -> View:
    builder = walk.builder
    places = index.value if index.dtype == _D.INT64 else builder.cast(index.value, _D.INT32)
    with np.errstate(over="ignore"):
        table = builder.constant(np.asarray(numbers, np.float64).astype(dtype.numpy()))
    return index.with_value(builder.op("Gather", table, places, shape=builder.shape(index.value), axis=0))


def _clip(walk: Walk, view: View, low: float, high: float) -> View:
    builder = walk.builder
    ends = [builder.scalar(end, view.dtype) for end in (low, high)]
    return view.with_value(builder.op("Clip", view.value, *ends, shape=builder.shape(view.value)))


def _where(walk: Walk, predicate: View, yes: View, no: View) -> View:
    return elementwise(walk.builder, "Where", predicate, yes, no, dtype=yes.dtype, data=1)


def _cast(walk: Walk, view: View, dtype: oir.DataType) -> View:
    return view.with_value(walk.builder.cast(view.value, dtype))


def _next_after(walk: Walk, op: ir.Operation) -> Sequence[View]:
    """The float behind x on the way to y: with bits that count one more away from zero, one less towards it."""
    builder, (x, y) = walk.builder, (walk.view(value) for value in op.operands)
    if x.dtype not in (_D.FLOAT, _D.FLOAT16, _D.BFLOAT16):
        raise NotConvertible(f"the next number after one of {x.dtype.name.lower()} has no ONNX form")
    bits = _cast(walk, _to_bits(walk, x), _D.INT64)
    zero, one = splat_view(walk, 0, x), splat_view(walk, 1, bits)
    upwards = elementwise(builder, "Less", x, y, dtype=_D.BOOL)
    positive = elementwise(builder, "Greater", x, zero, dtype=_D.BOOL)
    away = elementwise(builder, "Equal", upwards, positive, dtype=_D.BOOL)
    step = _where(walk, away, one, splat_view(walk, -1, bits))
    smallest = splat_view(walk, 1 + (1 << (x.dtype.bitwidth - 1)), bits)
    from_zero = _where(walk, elementwise(builder, "Less", y, zero, dtype=_D.BOOL), smallest, one)
    is_zero = elementwise(builder, "Equal", x, zero, dtype=_D.BOOL)
    moved = _where(walk, is_zero, from_zero, elementwise(builder, "Add", bits, step))
    result = _from_bits(walk, _cast(walk, moved, UNSIGNED[x.dtype.bitwidth]), x.dtype)
    result = _where(walk, elementwise(builder, "Equal", x, y, dtype=_D.BOOL), y, result)
    unordered = [elementwise(builder, "IsNaN", each, dtype=_D.BOOL) for each in (x, y)]
    return [_where(walk, elementwise(builder, "Or", *unordered), splat_view(walk, math.nan, x), result)]


BITCASTS: dict[str, Lowering] = {
    "stablehlo.bitcast_convert": _bitcast_convert,
    "chlo.next_after": _next_after,
}
