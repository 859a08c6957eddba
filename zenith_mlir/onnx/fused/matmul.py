"""zenith.matmul as MatMul and its steps."""

from __future__ import annotations

import math
from collections.abc import Sequence

import onnx_ir as oir
from jaxlib.mlir import ir

from zenith_mlir.dialects.labelled import plain
from zenith_mlir.dialects.matmul import MatmulSpec, Step
from zenith_mlir.onnx.arrange import elementwise
from zenith_mlir.onnx.convert import Walk, onnx_type
from zenith_mlir.onnx.fused.activation import ACTIVATIONS, activated
from zenith_mlir.onnx.fused.layouts import arranged, laid_out, over
from zenith_mlir.onnx.fused.operands import attributes, cast_view
from zenith_mlir.onnx.lower.number import splat_view
from zenith_mlir.onnx.view import View

__all__ = ["matmul"]

_D = oir.DataType


def matmul(walk: Walk, op: ir.Operation) -> Sequence[View] | None:
    builder, spec = walk.builder, MatmulSpec.from_attributes(attributes(op))
    views = spec.roles([walk.view(value) for value in op.operands])
    dtype = _D.DOUBLE if any(view.dtype == _D.DOUBLE for view in views) else _D.FLOAT
    views = [cast_view(builder, view, dtype) for view in views]
    order = [*spec.parallel, *spec.rows, *spec.columns]
    x = _product(walk, spec, views, order)
    modifiers = [
        over(builder, view, layout, spec.axes, order) for view, layout in zip(views[2:], spec.modifiers, strict=True)
    ]
    for step in spec.steps:
        x = _step(walk, step, x, modifiers)
    groups = [[order[d]] for d in x.order]
    out = laid_out(builder, arranged(builder, x, plain(order), spec.axes, groups), groups, spec.out, spec.axes)
    return [cast_view(builder, out, onnx_type(op.results[0]))]


def _product(walk: Walk, spec: MatmulSpec, views: Sequence[View], order: Sequence[str]) -> View:
    """A view over `order`: parallel axes, rows, columns."""
    builder, sizes = walk.builder, spec.axes
    batch = [[axis] for axis in spec.parallel]
    rows = [spec.rows] if batch or not spec.rows else [[axis] for axis in spec.rows]
    left = arranged(builder, views[0], spec.lhs, sizes, [*batch, *rows, spec.contracted], whole=True)
    right = arranged(builder, views[1], spec.rhs, sizes, [*batch, spec.contracted, spec.columns], whole=True)
    shape = [math.prod(sizes[axis] for axis in group) for group in (*batch, *rows, spec.columns)]
    product = builder.op("MatMul", left, right, shape=shape)
    dims = [sizes[axis] for axis in order]
    return View.of(builder.reshape(product, dims), dims)


def _step(walk: Walk, step: Step, x: View, modifiers: Sequence[View]) -> View:
    builder = walk.builder
    if step.kind == "round":
        narrow = _D.BFLOAT16 if step.dtype == "bfloat16" else _D.FLOAT16
        return cast_view(builder, cast_view(builder, x, narrow), x.dtype)
    if step.kind == "tanh":
        return elementwise(builder, "Tanh", x)
    if step.kind in ACTIVATIONS:
        return activated(walk, step.kind, 1.0, x)
    other = modifiers[step.operand - 2] if step.operand is not None else splat_view(walk, step.value, x)
    return elementwise(builder, _BINARY[step.kind], x, other)


_BINARY = {"scale": "Mul", "multiply": "Mul", "offset": "Add", "add": "Add"}
