"""zenith.softmax and zenith.log_softmax as Softmax and LogSoftmax, which take any axis."""

from __future__ import annotations

from collections.abc import Sequence

from jaxlib.mlir import ir

from zenith_mlir.dialects.softmax import SoftmaxSpec
from zenith_mlir.onnx.arrange import elementwise, stored_view
from zenith_mlir.onnx.builder import Builder
from zenith_mlir.onnx.convert import Walk, onnx_type
from zenith_mlir.onnx.fused.operands import attributes, cast_view, operator, widened
from zenith_mlir.onnx.lower.number import splat_view
from zenith_mlir.onnx.view import View

__all__ = ["log_softmax", "normalised", "softmax"]


def softmax(walk: Walk, op: ir.Operation) -> Sequence[View] | None:
    return _rows(walk, op, "Softmax")


def log_softmax(walk: Walk, op: ir.Operation) -> Sequence[View] | None:
    return _rows(walk, op, "LogSoftmax")


def _rows(walk: Walk, op: ir.Operation, op_type: str) -> Sequence[View] | None:
    builder, spec = walk.builder, SoftmaxSpec.from_attributes(attributes(op))
    (x,) = widened(builder, walk.view(op.operands[0]))
    if spec.scale != 1:
        x = elementwise(builder, "Mul", x, splat_view(walk, spec.scale, x))
    return [cast_view(builder, normalised(builder, op_type, x), onnx_type(op.results[0]))]


def normalised(builder: Builder, op_type: str, x: View) -> View:
    """Along the last dimension, on what is stored."""
    x = stored_view(builder, x, [x.rank - 1])
    if x.axes[-1] is None:  # rows of one element that is not stored as an axis
        stored = builder.shape(x.value)
        x = View(builder.reshape(x.value, [*stored, 1]), (*x.axes[:-1], len(stored)), x.shape)
    return x.with_value(operator(builder, op_type, x.value, shape=builder.shape(x.value), axis=x.axes[-1]))
