"""zenith.swiglu as an activation and a product; halves of one operand are cut by one Split."""

from __future__ import annotations

from collections.abc import Sequence

from jaxlib.mlir import ir

from zenith_mlir.dialects.swiglu import SwigluSpec
from zenith_mlir.onnx.arrange import elementwise, stored_view
from zenith_mlir.onnx.builder import Builder
from zenith_mlir.onnx.convert import Walk, onnx_type
from zenith_mlir.onnx.fused.activation import activated, biased
from zenith_mlir.onnx.fused.operands import attributes, cast_view, widened
from zenith_mlir.onnx.view import View

__all__ = ["halves", "swiglu"]


def swiglu(walk: Walk, op: ir.Operation) -> Sequence[View] | None:
    builder, spec = walk.builder, SwigluSpec.from_attributes(attributes(op))
    operands = widened(builder, *(walk.view(value) for value in op.operands))
    if spec.halves == "none":
        gate, up, *biases = operands
        if biases:
            gate, up = (biased(walk, x, b) for x, b in zip((gate, up), biases, strict=True))
    else:
        whole = biased(walk, *operands) if spec.bias else operands[0]
        first, second = halves(builder, whole)
        gate, up = (first, second) if spec.halves == "gate_first" else (second, first)
    out = elementwise(builder, "Mul", activated(walk, spec.activation, spec.slope, gate), up)
    return [cast_view(builder, out, onnx_type(op.results[0]))]


def halves(builder: Builder, view: View) -> list[View]:
    """The two halves of the last dimension."""
    last = view.rank - 1
    view = stored_view(builder, view, [last])
    axis, half = view.axes[last], view.shape[last] // 2
    assert axis is not None
    stored = [half if i == axis else size for i, size in enumerate(builder.shape(view.value))]
    operands = [view.value, builder.dims([half, half])]
    parts = builder.nodes("Split", operands, [(view.dtype, stored)] * 2, axis=axis)
    return [View(part, view.axes, (*view.shape[:last], half)) for part in parts]
