"""Divisions: a sum divided by how many elements it has is a mean."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxlib.mlir import ir

from zenith_mlir.ir.facts import defined_by
from zenith_mlir.onnx.convert import Lowering, NotConvertible, Walk
from zenith_mlir.onnx.lower.elementwise import ELEMENTWISE
from zenith_mlir.onnx.lower.number import is_float
from zenith_mlir.onnx.lower.pool import average, window_kind
from zenith_mlir.onnx.lower.reduce_node import reduce_node
from zenith_mlir.onnx.view import View

__all__ = ["MEAN"]


def _divide(walk: Walk, op: ir.Operation) -> Sequence[View]:
    left, right = (walk.view(value) for value in op.operands)
    divisor = walk.builder.array(right.value) if is_float(left.dtype) else None
    found = None if divisor is None else _pooled(walk, op, right) or _mean(walk, left, divisor)
    return [found] if found is not None else ELEMENTWISE["stablehlo.divide"](walk, op)


def _mean(walk: Walk, total: View, divisor: np.ndarray[Any, Any]) -> View | None:
    """The sum itself goes away if nobody else reads it."""
    builder, node = walk.builder, total.value.producer()
    if node is None or node.op_type != "ReduceSum" or divisor.size != 1 or len(node.inputs) != 2:
        return None
    value, axes = node.inputs
    assert value is not None and axes is not None
    reduced = [] if builder.array(axes) is None else np.asarray(builder.array(axes)).tolist()
    sizes = [builder.shape(value)[axis] for axis in reduced]
    if not sizes or any(builder.sizes.is_symbolic(size) for size in sizes) or math.prod(sizes) != divisor.item():
        return None
    return total.with_value(reduce_node(builder, "ReduceMean", value, reduced, builder.shape(total.value)))


def _pooled(walk: Walk, op: ir.Operation, divisor: View) -> View | None:
    widened = defined_by(op.operands[0], "stablehlo.convert")
    window = defined_by(widened.operands[0] if widened else op.operands[0], "stablehlo.reduce_window")
    if window is None or len(window.operands) != 2 or _kind(window) != "stablehlo.add":
        return None
    # Dimensions that the divisor repeats count as one element.
    counts = walk.builder.array(divisor.value)
    assert counts is not None
    order = divisor.order
    counts = counts.reshape([divisor.shape[d] for d in order]).transpose(np.argsort(order))
    return average(
        walk, window, np.expand_dims(counts, [d for d in range(divisor.rank) if d not in order]), divisor.dtype
    )


def _kind(window: ir.Operation) -> str | None:
    try:
        return window_kind(window)
    except NotConvertible:
        return None


MEAN: dict[str, Lowering] = {"stablehlo.divide": _divide}
