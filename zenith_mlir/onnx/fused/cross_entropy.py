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
from zenith_mlir.onnx.view import View

__all__ = ["cross_entropy"]

_BOOL, _INT64 = oir.DataType.BOOL, oir.DataType.INT64


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
    labels = builder.reshape(builder.cast(labels, _INT64), column)
    inside = _inside(builder, labels, -classes if spec.outside == "fill" else 0, classes)
    index = builder.op("Where", inside, labels, builder.scalar(0, _INT64), shape=column, data=1)
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


def _inside(builder: Builder, labels: oir.Value, low: int, high: int) -> oir.Value:
    shape = builder.shape(labels)
    above = builder.op("GreaterOrEqual", labels, builder.scalar(low, _INT64), shape=shape, dtype=_BOOL)
    below = builder.op("Less", labels, builder.scalar(high, _INT64), shape=shape, dtype=_BOOL)
    return builder.op("And", above, below, shape=shape)


def _taken(builder: Builder, value: oir.Value, index: oir.Value) -> oir.Value:
    """Negative indices count from the end."""
    return builder.op("GatherElements", value, index, shape=builder.shape(index), axis=-1)


def _with_infinity(builder: Builder, x: View, index: oir.Value, loss: oir.Value) -> oir.Value:
    """A row that holds +inf has an infinite loss, unless the label is there; LogSoftmax makes NaN of all of it."""
    shape = builder.shape(index)
    infinity = builder.scalar(math.inf, x.dtype)
    maximum = builder.reshape(reduce_axes(builder, "stablehlo.maximum", x, [x.rank - 1]).value, shape)
    infinite = builder.op("Equal", maximum, infinity, shape=shape, dtype=_BOOL)
    elsewhere = builder.op("Less", _taken(builder, x.value, index), infinity, shape=shape, dtype=_BOOL)
    both = builder.op("And", infinite, elsewhere, shape=shape)
    return builder.op("Where", both, infinity, loss, shape=shape, data=1)
