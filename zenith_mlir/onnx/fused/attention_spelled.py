"""zenith.attention as MatMul, its steps, Softmax and MatMul: queries of one key head are rows of one product."""

from __future__ import annotations

from collections.abc import Sequence

import onnx_ir as oir

from zenith_mlir.dialects.attention import AttentionSpec
from zenith_mlir.dialects.labelled import plain
from zenith_mlir.onnx.convert import Walk
from zenith_mlir.onnx.fused.layouts import arranged, laid_out
from zenith_mlir.onnx.fused.logits import Logits
from zenith_mlir.onnx.view import View

__all__ = ["spelled"]


def spelled(walk: Walk, spec: AttentionSpec, views: Sequence[View]) -> View:
    """The result, in the type of q."""
    builder, sizes = walk.builder, spec.axes
    q, k, v = views[:3]
    alone = [axis for axis in spec.parallel if axis not in (*spec.k.axes, *spec.v.axes)]
    batch = [[axis] for axis in spec.parallel if axis not in alone]
    rows = [*alone, *(axis for axis in ("t",) if axis in sizes)]
    features = ["e"] if "e" in sizes else []
    left = arranged(builder, q, spec.q, sizes, [*batch, rows, spec.contracted])
    right = arranged(builder, k, spec.k, sizes, [*batch, spec.contracted, ["s"]])
    product = _matmul(walk, left, right)
    present = [list(group) if all(axis in (*spec.q.axes, *spec.k.axes) for axis in group) else [] for group in batch]
    order = [axis for group in [*present, rows, ["s"]] for axis in group]
    wide = builder.reshape(product, [sizes[axis] for axis in order])
    axes = tuple(order.index(axis) if axis in order else None for axis in spec.logit_axes)
    x = View(wide, axes, tuple(sizes[axis] for axis in spec.logit_axes))
    p = Logits.of(walk, spec, views, q.dtype).probabilities(x)
    weights = arranged(builder, p, plain(spec.logit_axes), sizes, [*batch, rows, ["s"]])
    values = arranged(builder, v, spec.v, sizes, [*batch, ["s"], features])
    out = _matmul(walk, weights, values)
    groups = [*batch, rows, features]
    return laid_out(builder, builder.expand(out, _shape(spec, groups)), groups, spec.out, sizes)


def _shape(spec: AttentionSpec, groups: Sequence[Sequence[str]]) -> list[int]:
    shape = []
    for group in groups:
        size = 1
        for axis in group:
            size *= spec.axes[axis]
        shape.append(size)
    return shape


def _matmul(walk: Walk, x: oir.Value, y: oir.Value) -> oir.Value:
    left, right = walk.builder.shape(x), walk.builder.shape(y)
    batch = [b if a == 1 else a for a, b in zip(left[:-2], right[:-2], strict=True)]
    return walk.builder.op("MatMul", x, y, shape=[*batch, left[-2], right[-1]])
