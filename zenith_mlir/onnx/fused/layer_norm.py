"""zenith.layer_norm as LayerNormalization, which has float32 statistics by default (stash_type)."""

from __future__ import annotations

from collections.abc import Sequence

import onnx_ir as oir
from jaxlib.mlir import ir

from zenith_mlir.dialects.layer_norm import LayerNormSpec
from zenith_mlir.dialects.norm import NormSpec
from zenith_mlir.onnx.builder import Builder
from zenith_mlir.onnx.convert import Walk
from zenith_mlir.onnx.fused.norm import fits, norm
from zenith_mlir.onnx.fused.operands import attributes, operator
from zenith_mlir.onnx.view import View

__all__ = ["layer_norm"]


def layer_norm(walk: Walk, op: ir.Operation) -> Sequence[View] | None:
    spec = LayerNormSpec.from_attributes(attributes(op))
    return norm(walk, op, spec, _node) if fits(spec.epsilon) else None


def _node(builder: Builder, rows: oir.Value, weight: oir.Value, bias: oir.Value | None, spec: NormSpec) -> oir.Value:
    parameters = [weight] if bias is None else [weight, bias]
    shape = builder.shape(rows)
    return operator(
        builder, "LayerNormalization", rows, *parameters, shape=shape, axis=-spec.axes, epsilon=spec.epsilon
    )
