"""zenith.cross_entropy as LogSoftmax, of which the labels' columns are taken.

SoftmaxCrossEntropyLoss has no kernel on onnxruntime's CPU and leaves open what labels mean that are no columns.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import onnx_ir as oir
from jaxlib.mlir import ir

from zenith_mlir.dialects.cross_entropy import CrossEntropySpec
from zenith_mlir.onnx.arrange import dense
from zenith_mlir.onnx.builder import Builder
from zenith_mlir.onnx.convert import Walk, onnx_type
from zenith_mlir.onnx.fused.operands import attributes, widened
from zenith_mlir.onnx.lower.reduce import reduce_axes
from zenith_mlir.onnx.lower.reduce_node import reduce_node
from zenith_mlir.onnx.view import View

__all__ = ["cross_entropy"]

_BOOL = oir.DataType.BOOL


def cross_entropy(walk: Walk, op: ir.Operation) -> Sequence[View] | None:
    builder, spec = walk.builder, CrossEntropySpec.from_attributes(attributes(op))
    views = spec.named([walk.view(value) for value in op.operands])
    classes = views["logits"].shape[-1]
    plain = not spec.residuals and not spec.z_loss and spec.outside != "drop"
    if not plain or not classes or builder.sizes.is_symbolic(classes):
        return None
    (logits,) = widened(builder, views["logits"])
    logits = View.of(dense(builder, logits), logits.shape)
    return [_loss(builder, spec, logits, dense(builder, views["labels"]), onnx_type(op.results[0]))]


def _loss(builder: Builder, spec: CrossEntropySpec, x: View, labels: oir.Value, dtype: oir.DataType) -> View:
    classes, rows, column = x.shape[-1], x.shape[:-1], (*x.shape[:-1], 1)
    if labels.dtype != oir.DataType.INT32:
        labels = builder.cast(labels, oir.DataType.INT64)
    labels = builder.reshape(labels, column)
    bounds = [-classes if spec.outside == "fill" else 0, classes - 1]
    index = builder.op("Clip", labels, *(builder.scalar(bound, _dtype(labels)) for bound in bounds), shape=column)
    inside = builder.op("Equal", index, labels, shape=column, dtype=_BOOL)
    log = builder.op("LogSoftmax", x.value, shape=x.shape, axis=-1)
    loss = builder.op("Neg", _taken(builder, log, index), shape=column)
    if spec.infinity == "inf":
        loss = _with_infinity(builder, x, index, loss)
    outside = builder.scalar(math.nan if spec.outside == "fill" else 0, x.dtype)
    loss = builder.op("Where", inside, loss, outside, shape=column, data=1)
    if spec.smoothing:
        mean = reduce_axes(builder, "stablehlo.add", View.of(log, x.shape), [x.rank - 1])
        share = builder.op("Mul", mean.value, builder.scalar(-spec.smoothing / classes, x.dtype), shape=column)
        loss = builder.op("Mul", loss, builder.scalar(1 - spec.smoothing, x.dtype), shape=column)
        loss = builder.op("Add", loss, share, shape=column)
    return View.of(builder.cast(builder.reshape(loss, rows), dtype), rows)


def _taken(builder: Builder, value: oir.Value, index: oir.Value) -> oir.Value:
    """Negative indices count from the end. ONNX's reference does not take an axis that does so."""
    dims = builder.shape(index)
    return builder.op("GatherElements", value, index, shape=dims, axis=len(dims) - 1)


def _with_infinity(builder: Builder, x: View, index: oir.Value, loss: oir.Value) -> oir.Value:
    """A row that holds +inf, and no NaN, has an infinite loss, unless the label is there; LogSoftmax makes NaN of it.

    The maximum leaves NaN out, squares do not.
    """
    shape, axes = builder.shape(index), [x.rank - 1]
    largest, squares = (reduce_node(builder, name, x.value, axes, shape) for name in ("ReduceMax", "ReduceSumSquare"))
    least = builder.op("Min", largest, squares, shape=shape)
    infinite = builder.op("Equal", least, builder.scalar(math.inf, x.dtype), shape=shape, dtype=_BOOL)
    difference = builder.op("Sub", largest, _taken(builder, x.value, index), shape=shape)
    return builder.op("Where", infinite, difference, loss, shape=shape, data=1)


def _dtype(value: oir.Value) -> oir.DataType:
    assert value.dtype is not None
    return value.dtype
