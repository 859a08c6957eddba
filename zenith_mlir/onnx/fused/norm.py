"""What zenith.layer_norm and zenith.rms_norm have in common: the residual, rows that are stored last, the weight."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
import onnx_ir as oir
from jaxlib.mlir import ir

from zenith_mlir.dialects.norm import NormSpec
from zenith_mlir.onnx.arrange import dense, elementwise
from zenith_mlir.onnx.builder import Builder
from zenith_mlir.onnx.convert import Walk, onnx_type
from zenith_mlir.onnx.fused.operands import cast_view, widened
from zenith_mlir.onnx.view import View

__all__ = ["Normalise", "fits", "norm", "ones", "shifted"]

_FOLDED = 1 << 16

Normalise = Callable[[Builder, oir.Value, oir.Value, oir.Value | None, NormSpec], oir.Value]
"""The result for the rows, the weight, and the bias where there is one."""


def norm(walk: Walk, op: ir.Operation, spec: NormSpec, normalise: Normalise) -> Sequence[View]:
    """The results of a norm. What the rows are repeated over stays repeated."""
    builder, narrow = walk.builder, onnx_type(op.results[0])
    named = spec.named([walk.view(value) for value in op.operands])
    s = named["x"]
    if spec.residual:
        s = cast_view(builder, elementwise(builder, "Add", *widened(builder, s, named["residual"])), narrow)
    (rows,) = widened(builder, _rows_last(builder, s, spec.axes))
    shape = rows.shape[rows.rank - spec.axes :]
    weight = _weight(builder, spec, named, shape, rows.dtype)
    bias = builder.cast(dense(builder, named["bias"]), rows.dtype) if spec.bias else None
    out = rows.with_value(normalise(builder, rows.value, weight, bias, spec))
    return [cast_view(builder, out, narrow), *([s] if spec.residual else [])]


def fits(epsilon: float) -> bool:
    """Whether an attribute, which has the type float32, says it to seven digits."""
    return epsilon == 0 or abs(float(np.float32(epsilon)) / epsilon - 1) < 1e-6


def _rows_last(builder: Builder, view: View, axes: int) -> View:
    """Stored with the last `axes` dimensions as its last axes, whole."""
    last = list(range(view.rank - axes, view.rank))
    order = view.order
    stored = all(size == 1 or d in order for d, size in enumerate(view.shape) if d in last)
    if stored and [view.axes[d] for d in last] == list(range(view.stored_rank - axes, view.stored_rank)):
        return view
    return View.of(dense(builder, view), view.shape)


def _weight(
    builder: Builder, spec: NormSpec, named: dict[str, View], shape: Sequence[int], dtype: oir.DataType
) -> oir.Value:
    """weight + offset; ones where there is no weight."""
    if not spec.weight:
        return ones(builder, shape, dtype)
    return shifted(builder, builder.cast(dense(builder, named["weight"]), dtype), spec.offset)


def ones(builder: Builder, shape: Sequence[int], dtype: oir.DataType) -> oir.Value:
    """Weights of operators that have to have some; many of them are no part of the file."""
    if math.prod(shape) <= 1024 and not any(builder.sizes.is_symbolic(size) for size in shape):
        return builder.constant(np.ones(shape), dtype)
    return builder.expand(builder.reshape(builder.scalar(1, dtype), [1] * len(shape)), shape)


def shifted(builder: Builder, value: oir.Value, offset: float) -> oir.Value:
    """value + offset, now where the value is known and small."""
    if not offset:
        return value
    assert value.dtype is not None
    if value.const_value is not None and value.const_value.nbytes <= _FOLDED:
        array = value.const_value.numpy()
        return builder.constant(array + np.asarray(offset, array.dtype))
    return builder.op("Add", value, builder.scalar(offset, value.dtype), shape=builder.shape(value))
