"""One reducing node; where its axes go depends on the opset."""

from __future__ import annotations

from collections.abc import Sequence

import onnx_ir as oir

from zenith_mlir.onnx.builder import Builder

__all__ = ["reduce_node"]


def reduce_node(
    builder: Builder, op_type: str, value: oir.Value, axes: Sequence[int], stored: Sequence[int]
) -> oir.Value:
    """One reduction that keeps its axes. Up to opset 17 all but ReduceSum have them as an attribute."""
    if builder.opset >= 18 or op_type == "ReduceSum":
        return builder.op(op_type, value, builder.ints(axes), shape=stored, keepdims=1)
    return builder.op(op_type, value, shape=stored, keepdims=1, axes=list(axes))
