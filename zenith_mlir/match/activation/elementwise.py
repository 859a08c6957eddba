"""What an elementwise operation computes, in float64 with numpy; the sizes of floats play no part."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from jaxlib.mlir import ir
from numpy.typing import NDArray

from zenith_mlir.canonical.rules import MARKS
from zenith_mlir.canonical.splats import COMPARE, comparison_direction, numpy_dtype
from zenith_mlir.ir.facts import element_type, is_float

Array = NDArray[Any]

# An argument that is clipped beyond the points at which functions are compared would go unnoticed.
LARGEST_BOUND = 100.0


def evaluator(op: ir.Operation) -> Callable[..., Array] | None:
    """The function of arrays that `op` computes element by element; None if it is no such operation."""
    name = op.name
    find = _FINDERS.get(name)
    function = _FUNCTIONS.get(name) if find is None else find(op)
    if function is None or len(op.results) != 1 or any(mark in op.attributes for mark in MARKS):
        return None
    return function


def erf(x: Array) -> Array:
    return np.asarray(_each_erf(x), np.float64)


def erfc(x: Array) -> Array:
    return np.asarray(_each_erfc(x), np.float64)


_each_erf, _each_erfc = np.frompyfunc(math.erf, 1, 1), np.frompyfunc(math.erfc, 1, 1)


def logistic(x: Array) -> Array:
    with np.errstate(over="ignore"):
        return np.asarray(1 / (1 + np.exp(-x)))


def _select(predicate: Array, on_true: Array, on_false: Array) -> Array:
    return np.where(predicate, on_true, on_false)


def _clamp(low: Array, x: Array, high: Array) -> Array:
    return np.asarray(np.minimum(np.maximum(x, low), high))


_BY_NAME: dict[str, Callable[..., Array]] = {
    "add": np.add, "subtract": np.subtract, "multiply": np.multiply, "divide": np.divide, "negate": np.negative,
    "power": np.power, "square": np.square, "sqrt": np.sqrt, "rsqrt": lambda x: 1 / np.sqrt(x), "cbrt": np.cbrt,
    "exponential": np.exp, "exponential_minus_one": np.expm1, "log": np.log, "log_plus_one": np.log1p,
    "tanh": np.tanh, "logistic": logistic, "erf": erf, "erfc": erfc,
    "abs": np.abs, "sign": np.sign, "maximum": np.maximum, "minimum": np.minimum, "clamp": _clamp, "select": _select,
    "is_finite": np.isfinite,
}  # fmt: skip
_FUNCTIONS = {f"{dialect}.{name}": function for dialect in ("stablehlo", "chlo") for name, function in _BY_NAME.items()}
_BITWISE: dict[str, Callable[..., Array]] = {"and": np.bitwise_and, "or": np.bitwise_or}
_LOGIC: dict[str, Callable[..., Array]] = {
    "and": np.logical_and, "or": np.logical_or, "not": np.logical_not, "xor": np.logical_xor,
}  # fmt: skip


def _convert(op: ir.Operation) -> Callable[..., Array] | None:
    """Between floats a number stays what it is; a predicate becomes 0 or 1."""
    source, target = (numpy_dtype(element_type(value)) for value in (op.operands[0], op.results[0]))
    if source is None or target is None or not is_float(element_type(op.results[0])):
        return None
    if is_float(element_type(op.operands[0])):
        return lambda x: x
    return (lambda x: x.astype(np.float64)) if source.kind == "b" else None


def _compare(op: ir.Operation) -> Callable[..., Array] | None:
    if not is_float(element_type(op.operands[0])):
        return None
    return COMPARE[comparison_direction(op)]


def _logic(op: ir.Operation) -> Callable[..., Array] | None:
    dtype = numpy_dtype(element_type(op.results[0]))
    table = {} if dtype is None else _LOGIC if dtype.kind == "b" else _BITWISE
    return table.get(op.name.split(".", 1)[-1])


def _bitcast(op: ir.Operation) -> Callable[..., Array] | None:
    """Error functions that split a float by its bits: then it is one of its own type."""
    source, target = (numpy_dtype(element_type(value)) for value in (op.operands[0], op.results[0]))
    if source is None or target is None or source.itemsize != target.itemsize or source.itemsize < 4:
        return None
    return lambda x: _widened(np.ascontiguousarray(x, source).view(target).reshape(x.shape))


def _widened(x: Array) -> Array:
    return x.astype(np.float64) if x.dtype.kind == "f" else x


def _named(attribute: str, prefix: str) -> Callable[[ir.Operation], Callable[..., Array] | None]:
    """Error functions as jax.export writes them: behind a name."""

    def find(op: ir.Operation) -> Callable[..., Array] | None:
        name = str(ir.StringAttr(op.attributes[attribute]).value)
        return _BY_NAME.get(name.removeprefix(prefix)) if name in (f"{prefix}erf", f"{prefix}erfc") else None

    return find


_FINDERS: dict[str, Callable[[ir.Operation], Callable[..., Array] | None]] = {
    "stablehlo.convert": _convert,
    "stablehlo.compare": _compare,
    "stablehlo.bitcast_convert": _bitcast,
    **{f"stablehlo.{name}": _logic for name in _LOGIC},
    "stablehlo.composite": _named("name", "chlo."),
    "stablehlo.custom_call": _named("call_target_name", "mhlo."),
}
_BOUNDING = frozenset(f"stablehlo.{name}" for name in ("maximum", "minimum", "clamp", "compare"))


def bounds_far_out(op: ir.Operation, numbers: Sequence[float]) -> bool:
    """Whether `op` does something only where no point of comparison lies."""
    return op.name in _BOUNDING and any(abs(number) >= LARGEST_BOUND for number in numbers)
