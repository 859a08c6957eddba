"""Additions: what is added to every channel of a convolution is its bias."""

from __future__ import annotations

from collections.abc import Sequence

from jaxlib.mlir import ir

from zenith_mlir.ir.facts import defined_by, users
from zenith_mlir.onnx.arrange import in_order
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
    # Axis 1 of a convolution is the channels.
    if len(bias.order) != 1 or view.axes[bias.order[0]] != 1 or bias.dtype != view.dtype:
        return None
    vector = in_order(builder, bias, bias.order)
    attributes = {name: attribute.value for name, attribute in node.attributes.items()}
    result = (view.dtype, builder.shape(view.value))
    return view.with_value(builder.nodes(node.op_type, [*node.inputs, vector], [result], **attributes)[0])


BIAS: dict[str, Lowering] = {"stablehlo.add": _add}
