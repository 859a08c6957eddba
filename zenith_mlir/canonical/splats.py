"""Constants filled with one number: shape operations keep them splats, arithmetic on them is done here."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import ml_dtypes
import numpy as np
from jaxlib.mlir import ir

from zenith_mlir.canonical import build
from zenith_mlir.ir.facts import Number, element_type, has_static_shape, is_float, splat

Values = Sequence[ir.Value] | None

_DTYPES: dict[str, np.dtype] = {
    "i1": np.dtype(np.bool_), "i8": np.dtype(np.int8), "i16": np.dtype(np.int16), "i32": np.dtype(np.int32),
    "i64": np.dtype(np.int64), "ui8": np.dtype(np.uint8), "ui16": np.dtype(np.uint16), "ui32": np.dtype(np.uint32),
    "ui64": np.dtype(np.uint64), "f16": np.dtype(np.float16), "f32": np.dtype(np.float32), "f64": np.dtype(np.float64),
    "bf16": np.dtype(ml_dtypes.bfloat16),
}  # fmt: skip


def numpy_dtype(type_: ir.Type) -> np.dtype | None:
    """The numpy dtype of an element type; None for those that constant arithmetic leaves alone."""
    return _DTYPES.get(str(type_))


def move_splat(op: ir.Operation) -> Values:
    """A broadcast, reshape, transpose or slice of a splat is a splat of the result's shape."""
    number = splat(op.operands[0])
    if number is None or not has_static_shape(op.results[0]):
        return None
    return [build.splat_constant(op.results[0].type, number)]


# Operations whose result IEEE 754 defines to the last bit (rsqrt: rounded once from the exact square root's
# reciprocal).
_FLOAT: dict[str, Callable[..., object]] = {
    "add": np.add, "subtract": np.subtract, "multiply": np.multiply, "divide": np.divide,
    "maximum": np.maximum, "minimum": np.minimum, "negate": np.negative, "abs": np.abs, "sqrt": np.sqrt,
}  # fmt: skip
_INTEGER: dict[str, Callable[..., object]] = {
    "add": np.add, "subtract": np.subtract, "multiply": np.multiply, "maximum": np.maximum, "minimum": np.minimum,
    "negate": np.negative, "and": np.bitwise_and, "or": np.bitwise_or, "xor": np.bitwise_xor, "not": np.invert,
}  # fmt: skip
COMPARE: dict[str, Callable[..., np.ndarray]] = {
    "EQ": np.equal, "NE": np.not_equal, "LT": np.less, "LE": np.less_equal, "GT": np.greater, "GE": np.greater_equal,
}  # fmt: skip


def fold_arithmetic(op: ir.Operation) -> Values:
    numbers = _splat_operands(op)
    dtype = numpy_dtype(element_type(op.results[0]))
    if numbers is None or dtype is None:
        return None
    table = _FLOAT if is_float(element_type(op.results[0])) else _INTEGER
    function = table.get(op.name.removeprefix("stablehlo."))
    if function is None:
        return None
    with np.errstate(all="ignore"):
        result = function(*(np.asarray(number, dtype) for number in numbers))
    return [build.splat_constant(op.results[0].type, np.asarray(result, dtype).item())]


def fold_rsqrt(op: ir.Operation) -> Values:
    number = splat(op.operands[0])
    if number is None or number <= 0 or math.isinf(number):
        return None
    return [build.splat_constant(op.results[0].type, 1.0 / math.sqrt(number))]


def fold_compare(op: ir.Operation) -> Values:
    numbers = _splat_operands(op)
    dtype = numpy_dtype(element_type(op.operands[0]))
    if numbers is None or dtype is None or _is_total_order(op):
        return None
    a, b = (np.asarray(number, dtype) for number in numbers)
    return [build.splat_constant(op.results[0].type, bool(COMPARE[comparison_direction(op)](a, b)))]


def _is_total_order(op: ir.Operation) -> bool:
    """Whether -0.0 is less than 0.0, and NaNs are ordered, too."""
    return "compare_type" in op.attributes and "TOTALORDER" in str(op.attributes["compare_type"])


def comparison_direction(op: ir.Operation) -> str:
    """EQ, NE, LT, LE, GT or GE of a stablehlo.compare."""
    text = str(op.attributes["comparison_direction"])
    return text.removeprefix("#stablehlo<comparison_direction ").removesuffix(">")


def fold_convert(op: ir.Operation) -> Values:
    number = splat(op.operands[0])
    source, target = numpy_dtype(element_type(op.operands[0])), numpy_dtype(element_type(op.results[0]))
    if number is None or source is None or target is None:
        return None
    if source.kind not in "iub" and target.kind in "iu" and not _fits(number, target):
        return None  # what a number out of range is as an integer is up to the target
    with np.errstate(all="ignore"):
        converted: Number = np.asarray(number, source).astype(target).item()
    return [build.splat_constant(op.results[0].type, converted)]


def _fits(number: Number, target: np.dtype) -> bool:
    limits = np.iinfo(target)
    return math.isfinite(number) and limits.min <= math.trunc(number) <= limits.max


def _splat_operands(op: ir.Operation) -> list[Number] | None:
    numbers = [splat(operand) for operand in op.operands]
    return None if any(number is None for number in numbers) else [n for n in numbers if n is not None]


_MOVES = ("broadcast_in_dim", "reshape", "transpose", "slice", "dynamic_slice", "reverse")
RULES = {
    **{f"stablehlo.{name}": [move_splat] for name in _MOVES},
    **{f"stablehlo.{name}": [fold_arithmetic] for name in {**_FLOAT, **_INTEGER}},
    "stablehlo.rsqrt": [fold_rsqrt],
    "stablehlo.compare": [fold_compare],
    "stablehlo.convert": [fold_convert],
}
