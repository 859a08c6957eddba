"""Arithmetic, element by element, where ONNX has the operator or spells it with a few."""

from __future__ import annotations

from collections.abc import Sequence

import onnx_ir as oir
from jaxlib.mlir import ir

from zenith_mlir.canonical.splats import comparison_direction
from zenith_mlir.onnx.arrange import elementwise
from zenith_mlir.onnx.convert import Lowering, NotConvertible, Walk, onnx_type
from zenith_mlir.onnx.lower.integers import INTEGER_OPS
from zenith_mlir.onnx.lower.number import is_float, splat_view
from zenith_mlir.onnx.lower.special import SPECIAL, remainder
from zenith_mlir.onnx.view import View

__all__ = ["ELEMENTWISE"]


def _direct(op_type: str) -> Lowering:
    def lower(walk: Walk, op: ir.Operation) -> Sequence[View]:
        if op_type.startswith("Bitwise") and walk.builder.opset < 18:
            raise NotConvertible(f"integers need opset 18 here; this is opset {walk.builder.opset}")
        return [elementwise(walk.builder, op_type, *(walk.view(value) for value in op.operands))]

    return lower


def _by_type(floats: Lowering | str, integers: Lowering | str, booleans: Lowering | str | None = None) -> Lowering:
    """Another operator for integers and for booleans, as StableHLO's `and` and `add` are."""
    choices = [_direct(each) if isinstance(each, str) else each for each in (floats, integers, booleans or integers)]

    def lower(walk: Walk, op: ir.Operation) -> Sequence[View]:
        dtype = onnx_type(op.operands[0])
        kind = 0 if is_float(dtype) else 2 if dtype == oir.DataType.BOOL else 1
        return choices[kind](walk, op)

    return lower


def _compare(walk: Walk, op: ir.Operation) -> Sequence[View]:
    left, right = (walk.view(value) for value in op.operands)
    direction = comparison_direction(op)
    if left.dtype == oir.DataType.BOOL and direction not in ("EQ", "NE"):
        left, right = (elementwise_cast(walk, view, oir.DataType.INT32) for view in (left, right))
    if direction == "NE":
        equal = elementwise(walk.builder, "Equal", left, right, dtype=oir.DataType.BOOL)
        return [elementwise(walk.builder, "Not", equal)]
    return [elementwise(walk.builder, _COMPARISONS[direction], left, right, dtype=oir.DataType.BOOL)]


_COMPARISONS = {"EQ": "Equal", "LT": "Less", "LE": "LessOrEqual", "GT": "Greater", "GE": "GreaterOrEqual"}


def elementwise_cast(walk: Walk, view: View, dtype: oir.DataType) -> View:
    """A Cast of what is stored; it rounds and wraps as ONNX does."""
    return view.with_value(walk.builder.cast(view.value, dtype))


def _select(walk: Walk, op: ir.Operation) -> Sequence[View]:
    predicate, *cases = (walk.view(value) for value in op.operands)
    known = walk.builder.array(predicate.value)
    if known is not None and known.size and (known == known.flat[0]).all():
        return [cases[0 if known.flat[0] else 1]]
    predicate = View(predicate.value, predicate.axes or (None,) * cases[0].rank, cases[0].shape)
    return [elementwise(walk.builder, "Where", predicate, *cases, dtype=cases[0].dtype, data=1)]


def _clamp(walk: Walk, op: ir.Operation) -> Sequence[View]:
    low, x, high = (walk.view(value) for value in op.operands)
    low, high = (View(v.value, v.axes or (None,) * x.rank, x.shape) for v in (low, high))
    if any(bound.order for bound in (low, high)):
        return [elementwise(walk.builder, "Min", elementwise(walk.builder, "Max", x, low), high)]
    scalars = [walk.builder.reshape(bound.value, ()) for bound in (low, high)]
    stored = walk.builder.shape(x.value)
    return [x.with_value(walk.builder.op("Clip", x.value, *scalars, shape=stored))]


def _maximum(op_type: str, logical: str) -> Lowering:
    return _by_type(_direct(op_type), _direct(op_type), _direct(logical))


def _rsqrt(walk: Walk, op: ir.Operation) -> Sequence[View]:
    root = elementwise(walk.builder, "Sqrt", walk.view(op.operands[0]))
    return [elementwise(walk.builder, "Reciprocal", root)]


def _is_finite(walk: Walk, op: ir.Operation) -> Sequence[View]:
    x = walk.view(op.operands[0])
    size = elementwise(walk.builder, "Abs", x)
    infinity = splat_view(walk, float("inf"), x)
    return [elementwise(walk.builder, "Less", size, infinity, dtype=oir.DataType.BOOL)]


def _power(walk: Walk, op: ir.Operation) -> Sequence[View]:
    base, exponent = (walk.view(value) for value in op.operands)
    if walk.array(op.operands[1]) is not None and is_float(base.dtype):
        number = walk.builder.array(exponent.value)
        if number is not None and number.size == 1 and float(number.reshape(())) == 2.0:
            return [elementwise(walk.builder, "Mul", base, base)]
    return [elementwise(walk.builder, "Pow", base, exponent)]


def _unary(table: dict[str, str]) -> dict[str, Lowering]:
    return {name: _direct(op_type) for name, op_type in table.items()}


_S = "stablehlo."
_BINARY: dict[str, Lowering] = {
    _S + "add": _by_type("Add", "Add", "Or"),
    _S + "subtract": _direct("Sub"),
    _S + "multiply": _by_type("Mul", "Mul", "And"),
    _S + "divide": _by_type("Div", INTEGER_OPS["divide"]),
    _S + "remainder": _by_type(remainder, INTEGER_OPS["remainder"]),
    _S + "maximum": _maximum("Max", "Or"),
    _S + "minimum": _maximum("Min", "And"),
    _S + "power": _by_type(_power, INTEGER_OPS["power"]),
    _S + "and": _by_type("And", "BitwiseAnd", "And"),
    _S + "or": _by_type("Or", "BitwiseOr", "Or"),
    _S + "xor": _by_type("Xor", "BitwiseXor", "Xor"),
    _S + "not": _by_type("Not", "BitwiseNot", "Not"),
}

ELEMENTWISE: dict[str, Lowering] = {
    **_BINARY,
    **SPECIAL,
    **_unary(
        {
            _S + "abs": "Abs",
            _S + "ceil": "Ceil",
            _S + "cosine": "Cos",
            _S + "exponential": "Exp",
            _S + "floor": "Floor",
            _S + "log": "Log",
            _S + "logistic": "Sigmoid",
            _S + "negate": "Neg",
            _S + "round_nearest_even": "Round",
            _S + "sign": "Sign",
            _S + "sine": "Sin",
            _S + "sqrt": "Sqrt",
            _S + "tan": "Tan",
            _S + "tanh": "Tanh",
            "chlo.acos": "Acos",
            "chlo.asin": "Asin",
            "chlo.atan": "Atan",
            "chlo.cosh": "Cosh",
            "chlo.sinh": "Sinh",
            "chlo.tan": "Tan",
            "chlo.erf": "Erf",
        }
    ),
    **{_S + name: INTEGER_OPS[name] for name in ("shift_left", "shift_right_logical", "shift_right_arithmetic")},
    _S + "compare": _compare,
    _S + "select": _select,
    _S + "clamp": _clamp,
    _S + "rsqrt": _rsqrt,
    _S + "is_finite": _is_finite,
}
