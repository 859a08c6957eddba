"""stablehlo.reduce: ONNX's reductions, with NaN where XLA has it, and the variadic one that jnp.argmax makes."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import onnx_ir as oir
from jaxlib.mlir import ir

from zenith_mlir.ir.facts import int_list, reduction
from zenith_mlir.onnx.arrange import elementwise, stored_view
from zenith_mlir.onnx.builder import Builder
from zenith_mlir.onnx.convert import Lowering, NotConvertible, Walk
from zenith_mlir.onnx.lower.argmax import arg_extreme
from zenith_mlir.onnx.lower.in_bounds import in_bounds
from zenith_mlir.onnx.lower.number import is_float
from zenith_mlir.onnx.lower.reduce_node import reduce_node
from zenith_mlir.onnx.view import View

__all__ = ["REDUCE", "REDUCTIONS", "combine", "is_neutral", "neutral", "reduce_axes", "with_init"]

_D = oir.DataType


def _reduce(walk: Walk, op: ir.Operation) -> Sequence[View]:
    if len(op.operands) > 2:
        return arg_extreme(walk, op)
    kind = reduction(op)
    if kind not in REDUCTIONS:
        raise NotConvertible("a reduction is converted where it adds, multiplies, takes the extreme or joins booleans")
    if kind == "stablehlo.and" and is_neutral(walk, op.operands[1], kind, walk.view(op.operands[0]).dtype):
        found = in_bounds(walk, op)
        if found is not None:
            return [found]
    view = walk.view(op.operands[0])
    reduced = reduce_axes(walk.builder, kind, view, int_list(op, "dimensions"))
    return [with_init(walk, reduced, op.operands[1], kind)]


def with_init(walk: Walk, reduced: View, init: ir.Value, kind: str) -> View:
    """Combined with the initial value, unless that changes nothing."""
    if is_neutral(walk, init, kind, reduced.dtype):
        return reduced
    start = View(walk.view(init).value, (None,) * reduced.rank, reduced.shape)
    return elementwise(walk.builder, combine(kind, reduced.dtype), reduced, start)


def reduce_axes(builder: Builder, kind: str, view: View, dimensions: Sequence[int]) -> View:
    """`view` without `dimensions`, combined by the operation `kind` ("stablehlo.add")."""
    if kind in ("stablehlo.add", "stablehlo.multiply", "stablehlo.xor"):
        view = stored_view(builder, view, dimensions)
    axes = [axis for d in dimensions if (axis := view.axes[d]) is not None]
    stored = [1 if axis in axes else size for axis, size in enumerate(builder.shape(view.value))]
    value = REDUCTIONS[kind](builder, view.value, axes, stored) if axes else view.value
    kept = [d for d in range(view.rank) if d not in dimensions]
    return View(value, tuple(view.axes[d] for d in kept), tuple(view.shape[d] for d in kept))


_Reducer = Callable[[Builder, oir.Value, Sequence[int], Sequence[int]], oir.Value]


def _plain(op_type: str) -> _Reducer:
    def reduce(builder: Builder, value: oir.Value, axes: Sequence[int], stored: Sequence[int]) -> oir.Value:
        return reduce_node(builder, op_type, value, axes, stored)

    return reduce


def _extreme(op_type: str, logical: str) -> _Reducer:
    """Of floats, onnxruntime drops NaN. A sum of squares is NaN where an element is, and only there."""

    def reduce(builder: Builder, value: oir.Value, axes: Sequence[int], stored: Sequence[int]) -> oir.Value:
        if value.dtype == _D.BOOL:
            return _boolean(logical)(builder, value, axes, stored)
        found = reduce_node(builder, op_type, value, axes, stored)
        if value.dtype is None or not is_float(value.dtype):
            return found
        squares = reduce_node(builder, "ReduceSumSquare", value, axes, stored)
        unordered = builder.op("IsNaN", squares, shape=stored, dtype=_D.BOOL)
        return builder.op("Where", unordered, squares, found, shape=stored, data=1)

    return reduce


def _boolean(op_type: str) -> _Reducer:
    def reduce(builder: Builder, value: oir.Value, axes: Sequence[int], stored: Sequence[int]) -> oir.Value:
        number = builder.cast(value, _D.UINT8 if op_type != "ReduceSum" else _D.INT32)
        found = reduce_node(builder, op_type, number, axes, stored)
        if op_type == "ReduceSum":
            found = builder.op("Mod", found, builder.scalar(2, _D.INT32), shape=stored)
        return builder.cast(found, _D.BOOL)

    return reduce


def _typed(numbers: _Reducer, booleans: _Reducer) -> _Reducer:
    def reduce(builder: Builder, value: oir.Value, axes: Sequence[int], stored: Sequence[int]) -> oir.Value:
        return (booleans if value.dtype == _D.BOOL else numbers)(builder, value, axes, stored)

    return reduce


def _only_booleans(op_type: str) -> _Reducer:
    def reduce(builder: Builder, value: oir.Value, axes: Sequence[int], stored: Sequence[int]) -> oir.Value:
        if value.dtype != _D.BOOL:
            raise NotConvertible("ONNX has no reduction by and, or, xor of integers")
        return _boolean(op_type)(builder, value, axes, stored)

    return reduce


REDUCTIONS: dict[str, _Reducer] = {
    "stablehlo.add": _typed(_plain("ReduceSum"), _boolean("ReduceMax")),
    "stablehlo.multiply": _typed(_plain("ReduceProd"), _boolean("ReduceMin")),
    "stablehlo.maximum": _extreme("ReduceMax", "ReduceMax"),
    "stablehlo.minimum": _extreme("ReduceMin", "ReduceMin"),
    "stablehlo.and": _only_booleans("ReduceMin"),
    "stablehlo.or": _only_booleans("ReduceMax"),
    "stablehlo.xor": _only_booleans("ReduceSum"),
}


def combine(kind: str, dtype: oir.DataType) -> str:
    """The ONNX operator that joins two elements."""
    return _COMBINE[kind](dtype)


def _combining(numbers: str, booleans: str) -> Callable[[oir.DataType], str]:
    return lambda dtype: booleans if dtype == _D.BOOL else numbers


_COMBINE = {
    "stablehlo.add": _combining("Add", "Or"),
    "stablehlo.multiply": _combining("Mul", "And"),
    "stablehlo.maximum": _combining("Max", "Or"),
    "stablehlo.minimum": _combining("Min", "And"),
    "stablehlo.and": _combining("BitwiseAnd", "And"),
    "stablehlo.or": _combining("BitwiseOr", "Or"),
    "stablehlo.xor": _combining("BitwiseXor", "Xor"),
}


def is_neutral(walk: Walk, init: ir.Value, kind: str, dtype: oir.DataType) -> bool:
    known = walk.builder.array(walk.view(init).value)
    return known is not None and bool(known.reshape(()) == neutral(kind, dtype))


def neutral(kind: str, dtype: oir.DataType) -> Any:
    """The number that the operation `kind` leaves others as they are with."""
    if kind in ("stablehlo.maximum", "stablehlo.minimum"):
        low, high = (-math.inf, math.inf) if is_float(dtype) else _limits(dtype.numpy())
        return low if kind == "stablehlo.maximum" else high
    return _NEUTRAL[kind]


_NEUTRAL = {
    "stablehlo.add": 0,
    "stablehlo.multiply": 1,
    "stablehlo.and": 1,
    "stablehlo.or": 0,
    "stablehlo.xor": 0,
    "logaddexp": -math.inf,
}


def _limits(dtype: np.dtype[Any]) -> tuple[int, int]:
    if dtype == np.bool_:
        return 0, 1
    info = np.iinfo(dtype)
    return int(info.min), int(info.max)


REDUCE: dict[str, Lowering] = {"stablehlo.reduce": _reduce}
