"""Additions: what is added to every channel of a convolution is its bias."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx_ir as oir
from jaxlib.mlir import ir

from zenith_mlir.ir.facts import defined_by, users
from zenith_mlir.onnx.arrange import in_order
from zenith_mlir.onnx.builder import Builder
from zenith_mlir.onnx.convert import Lowering, Walk
from zenith_mlir.onnx.lower.elementwise import ELEMENTWISE
from zenith_mlir.onnx.view import View

__all__ = ["BIAS"]


def _add(walk: Walk, op: ir.Operation) -> Sequence[View]:
    left, right = op.operands
    found = _biased(walk, op, left, right) or _biased(walk, op, right, left)
    return [found] if found is not None else ELEMENTWISE["stablehlo.add"](walk, op)


def _biased(walk: Walk, op: ir.Operation, product: ir.Value, added: ir.Value) -> View | None:
    """The convolution a second time, now with a bias; the first one, which nobody reads, goes away."""
    builder, view, bias = walk.builder, walk.view(product), walk.view(added)
    node = view.value.producer()
    alone = defined_by(product, "stablehlo.convolution") is not None and users(product) == [op]
    if not alone or node is None or node.op_type not in ("Conv", "ConvTranspose") or node.graph != builder.graph:
        return None
    vector = _vector(builder, bias, view)
    if vector is None or bias.dtype != view.dtype:
        return None
    attributes = {name: attribute.value for name, attribute in node.attributes.items()}
    result = (view.dtype, builder.shape(view.value))
    return view.with_value(builder.nodes(node.op_type, [*node.inputs, vector], [result], **attributes)[0])


def _vector(builder: Builder, bias: View, view: View) -> oir.Value | None:
    """A number for each channel, of which axis 1 of a convolution is; also of a constant that is one number."""
    channels = builder.shape(view.value)[1]
    number = builder.array(bias.value) if not bias.order else None
    if number is not None and not builder.sizes.is_symbolic(channels):
        return builder.constant(np.full([channels], number.item(), number.dtype))
    if len(bias.order) != 1 or view.axes[bias.order[0]] != 1:
        return None
    return in_order(builder, bias, bias.order)


BIAS: dict[str, Lowering] = {"stablehlo.add": _add}
