"""zenith.rms_norm as RMSNormalization, and before opset 23 as onnxruntime recognises it."""

from __future__ import annotations

from collections.abc import Sequence

import onnx_ir as oir
from jaxlib.mlir import ir

from zenith_mlir.dialects.norm import NormSpec
from zenith_mlir.dialects.rms_norm import RmsNormSpec
from zenith_mlir.onnx.builder import Builder
from zenith_mlir.onnx.convert import Walk
from zenith_mlir.onnx.fused.norm import fits, norm
from zenith_mlir.onnx.fused.operands import attributes, operator
from zenith_mlir.onnx.lower.reduce_node import reduce_node
from zenith_mlir.onnx.view import View

__all__ = ["rms_norm"]


def rms_norm(walk: Walk, op: ir.Operation) -> Sequence[View] | None:
    spec = RmsNormSpec.from_attributes(attributes(op))
    if not fits(spec.epsilon):
        return None
    return norm(walk, op, spec, _node if walk.builder.opset >= 23 else _spelled)


def _node(builder: Builder, rows: oir.Value, weight: oir.Value, bias: oir.Value | None, spec: NormSpec) -> oir.Value:
    shape = builder.shape(rows)
    out = operator(builder, "RMSNormalization", rows, weight, shape=shape, axis=-spec.axes, epsilon=spec.epsilon)
    return out if bias is None else builder.op("Add", out, bias, shape=shape)


def _spelled(builder: Builder, rows: oir.Value, weight: oir.Value, bias: oir.Value | None, spec: NormSpec) -> oir.Value:
    """As onnxruntime's SimplifiedLayerNormFusion expects it."""
    shape = builder.shape(rows)
    line = [*shape[: len(shape) - spec.axes], *([1] * spec.axes)]
    assert rows.dtype is not None
    squares = builder.op("Pow", rows, builder.scalar(2, rows.dtype), shape=shape)
    mean = reduce_node(builder, "ReduceMean", squares, range(-spec.axes, 0), line)
    root = builder.op("Sqrt", builder.op("Add", mean, builder.scalar(spec.epsilon, rows.dtype), shape=line), shape=line)
    out = builder.op("Mul", builder.op("Div", rows, root, shape=shape), weight, shape=shape)
    return out if bias is None else builder.op("Add", out, bias, shape=shape)
