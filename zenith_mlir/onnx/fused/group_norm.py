"""zenith.group_norm as LayerNormalization over what is normalised, made the last axis.

onnxruntime's CPU has no kernel for GroupNormalization, and that for InstanceNormalization loses digits where the mean
is far from 0.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from jaxlib.mlir import ir

from zenith_mlir.dialects.group_norm import GroupNormSpec
from zenith_mlir.dialects.layout import Layout
from zenith_mlir.onnx.arrange import elementwise
from zenith_mlir.onnx.builder import Builder
from zenith_mlir.onnx.convert import Walk, onnx_type
from zenith_mlir.onnx.fused.layouts import arranged, laid_out, over
from zenith_mlir.onnx.fused.norm import fits, ones, shifted
from zenith_mlir.onnx.fused.operands import attributes, cast_view, operator, widened
from zenith_mlir.onnx.view import View

__all__ = ["group_norm"]


def group_norm(walk: Walk, op: ir.Operation) -> Sequence[View] | None:
    builder, spec = walk.builder, GroupNormSpec.from_attributes(attributes(op))
    if not spec.centred or not fits(spec.epsilon):
        return None
    x, *vectors = widened(builder, *(walk.view(value) for value in op.operands))
    vectors = [cast_view(builder, vector, x.dtype) for vector in vectors]
    order = spec.x.axes
    stored = sorted(order, key=_stored(x, spec))
    groups = [*([a] for a in stored if a not in spec.normalised), [a for a in stored if a in spec.normalised]]
    rows = arranged(builder, x, spec.x, spec.axes, groups, whole=True)
    shape = builder.shape(rows)
    weight = ones(builder, shape[-1:], x.dtype)
    out = operator(builder, "LayerNormalization", rows, weight, shape=shape, axis=-1, epsilon=spec.epsilon)
    plain = Layout(tuple((axis,) for axis in order))
    n = laid_out(builder, out, groups, plain, spec.axes)
    if spec.weight is not None:
        vector = vectors.pop(0)
        scale = vector.with_value(shifted(builder, vector.value, spec.offset))
        n = elementwise(builder, "Mul", n, over(builder, scale, spec.weight, spec.axes, order))
    if spec.bias is not None:
        n = elementwise(builder, "Add", n, over(builder, vectors.pop(0), spec.bias, spec.axes, order))
    return [cast_view(builder, _as_x(builder, n, spec, plain), onnx_type(op.results[0]))]


def _stored(x: View, spec: GroupNormSpec) -> Callable[[str], int]:
    """Where an axis is stored."""
    places = {axis: x.axes[d] or 0 for d, dim in enumerate(spec.x.dims) for axis in dim}
    return lambda axis: places[axis]


def _as_x(builder: Builder, n: View, spec: GroupNormSpec, plain: Layout) -> View:
    """From one dimension an axis to the layout of x."""
    if spec.x == plain:
        return n
    order = [spec.x.axes[d] for d in n.order]
    stored = [*([axis] for axis in order)]
    return laid_out(builder, arranged(builder, n, plain, spec.axes, stored), stored, spec.x, spec.axes)
