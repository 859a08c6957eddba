"""zenith.silu as x σ(slope x), or Swish."""

from __future__ import annotations

from collections.abc import Sequence

from jaxlib.mlir import ir

from zenith_mlir.dialects.silu import SiluSpec
from zenith_mlir.onnx.convert import Walk
from zenith_mlir.onnx.fused.gelu import activation
from zenith_mlir.onnx.fused.operands import attributes
from zenith_mlir.onnx.view import View

__all__ = ["silu"]


def silu(walk: Walk, op: ir.Operation) -> Sequence[View] | None:
    return activation(walk, op, SiluSpec.from_attributes(attributes(op)))
