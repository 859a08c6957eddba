"""zenith.attention as Attention where that means the same, else spelled out with masks that cost little."""

from __future__ import annotations

from collections.abc import Sequence

import onnx_ir as oir
from jaxlib.mlir import ir

from zenith_mlir.dialects.attention import AttentionSpec
from zenith_mlir.onnx.convert import Walk, onnx_type
from zenith_mlir.onnx.fused.attention_operator import operator_form
from zenith_mlir.onnx.fused.attention_spelled import spelled
from zenith_mlir.onnx.fused.operands import attributes, cast_view
from zenith_mlir.onnx.view import View

__all__ = ["attention"]

_D = oir.DataType


def attention(walk: Walk, op: ir.Operation) -> Sequence[View] | None:
    builder, spec = walk.builder, AttentionSpec.from_attributes(attributes(op))
    if spec.residuals or spec.escapes:  # others have use for what is inside of the decomposition
        return None
    views = spec.roles([walk.view(value) for value in op.operands])
    types = {view.dtype for view in views[:3]}
    wide = _D.DOUBLE if _D.DOUBLE in types else _D.FLOAT
    own = types.pop() if builder.fused == "always" and len(types) == 1 else wide
    out = operator_form(walk, spec, [_typed(walk, view, own) for view in views])
    if out is None:
        out = spelled(walk, spec, [_typed(walk, view, wide) for view in views])
    return [cast_view(builder, out, onnx_type(op.results[0]))]


def _typed(walk: Walk, view: View, dtype: oir.DataType) -> View:
    return view if view.dtype == _D.BOOL else cast_view(walk.builder, view, dtype)
