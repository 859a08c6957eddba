"""Maxima and minima with a number: Relu and Clip, which onnxruntime joins with a convolution before them.

Both keep NaN, as XLA does.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx_ir as oir
from jaxlib.mlir import ir

from zenith_mlir.onnx.convert import Lowering, Walk
from zenith_mlir.onnx.lower.elementwise import ELEMENTWISE
from zenith_mlir.onnx.view import View

__all__ = ["CLIP"]

_FLOATS = (oir.DataType.FLOAT, oir.DataType.FLOAT16, oir.DataType.BFLOAT16, oir.DataType.DOUBLE)


def _maximum(walk: Walk, op: ir.Operation) -> Sequence[View]:
    """Relu where one operand is 0."""
    builder = walk.builder
    for view, other in _with_number(walk, op):
        if other.item() == 0:
            return [view.with_value(builder.op("Relu", view.value, shape=builder.shape(view.value)))]
    return ELEMENTWISE["stablehlo.maximum"](walk, op)


def _minimum(walk: Walk, op: ir.Operation) -> Sequence[View]:
    """Clip of what a Relu reads, as jax.nn.relu6 has it."""
    builder = walk.builder
    for view, other in _with_number(walk, op):
        node = view.value.producer()
        if node is not None and node.op_type == "Relu" and other.item() > 0:
            bounds = [builder.scalar(bound, view.dtype) for bound in (0, other.item())]
            return [view.with_value(builder.op("Clip", node.inputs[0], *bounds, shape=builder.shape(view.value)))]
    return ELEMENTWISE["stablehlo.minimum"](walk, op)


def _with_number(walk: Walk, op: ir.Operation) -> list[tuple[View, np.ndarray[Any, Any]]]:
    """The pairs of a value and the one number that it is compared with."""
    views = [walk.view(value) for value in op.operands]
    known = [walk.builder.array(view.value) if view.dtype in _FLOATS else None for view in views]
    pairs = zip(views, reversed(known), strict=True)
    return [(view, number) for view, number in pairs if number is not None and number.size == 1]


CLIP: dict[str, Lowering] = {"stablehlo.maximum": _maximum, "stablehlo.minimum": _minimum}
