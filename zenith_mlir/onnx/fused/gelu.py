"""zenith.gelu as Gelu."""

from __future__ import annotations

from collections.abc import Sequence

from jaxlib.mlir import ir

from zenith_mlir.dialects.gelu import GeluSpec
from zenith_mlir.dialects.silu import SiluSpec
from zenith_mlir.onnx.convert import Walk, onnx_type
from zenith_mlir.onnx.fused.activation import activated, biased
from zenith_mlir.onnx.fused.operands import attributes, cast_view, widened
from zenith_mlir.onnx.view import View

__all__ = ["activation", "gelu"]


def gelu(walk: Walk, op: ir.Operation) -> Sequence[View] | None:
    return activation(walk, op, GeluSpec.from_attributes(attributes(op)))


def activation(walk: Walk, op: ir.Operation, spec: GeluSpec | SiluSpec) -> Sequence[View]:
    """Of x, or of x + bias."""
    x, *bias = widened(walk.builder, *(walk.view(value) for value in op.operands))
    total = biased(walk, x, bias[0]) if bias else x
    out = activated(walk, spec.activation, spec.slope, total)
    return [cast_view(walk.builder, out, onnx_type(op.results[0]))]
