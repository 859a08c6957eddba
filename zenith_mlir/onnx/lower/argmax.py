"""The reduction of values and their indexes that jnp.argmax and jnp.argmin make."""

from __future__ import annotations

from collections.abc import Sequence

import onnx_ir as oir
from jaxlib.mlir import ir

from zenith_mlir.canonical.splats import comparison_direction
from zenith_mlir.ir.facts import defined_by, int_list, shape, walk_named
from zenith_mlir.onnx.builder import Builder
from zenith_mlir.onnx.convert import NotConvertible, Walk, onnx_type
from zenith_mlir.onnx.lower.number import is_float
from zenith_mlir.onnx.lower.reduce_node import reduce_node
from zenith_mlir.onnx.view import View

__all__ = ["arg_extreme"]

_D = oir.DataType


def arg_extreme(walk: Walk, op: ir.Operation) -> Sequence[View]:
    """The extreme and the first index of it, a NaN before everything else (jax.lax.argmax).

    Raises:
        NotConvertible: for any other reduction of several operands.
    """
    kind, d = _recognise(op)
    builder, value = walk.builder, walk.dense(op.operands[0])
    dims = shape(op.results[0])
    index = _arg(builder, kind, value, d, dims)
    line = builder.op("Unsqueeze", index, builder.ints([d]), shape=[*dims[:d], 1, *dims[d:]])
    best = builder.op("GatherElements", value, line, shape=[*dims[:d], 1, *dims[d:]], axis=d)
    extreme = builder.reshape(best, dims)
    return [View.of(extreme, dims), View.of(builder.cast(index, onnx_type(op.results[1])), dims)]


def _arg(builder: Builder, kind: str, value: oir.Value, d: int, dims: Sequence[int]) -> oir.Value:
    found = builder.op(kind, value, shape=dims, dtype=_D.INT64, axis=d, keepdims=0)
    assert value.dtype is not None
    if not is_float(value.dtype):
        return found
    stored = builder.shape(value)
    unordered = builder.op("IsNaN", value, shape=stored, dtype=_D.BOOL)
    flags = builder.cast(unordered, _D.UINT8)
    first = builder.op("ArgMax", flags, shape=dims, dtype=_D.INT64, axis=d, keepdims=0)
    some = builder.reshape(reduce_node(builder, "ReduceMax", flags, [d], [*dims[:d], 1, *dims[d:]]), dims)
    return builder.op("Where", builder.cast(some, _D.BOOL), first, found, shape=dims, data=1)


def _recognise(op: ir.Operation) -> tuple[str, int]:
    """ArgMax or ArgMin and the dimension. The second operand has to count along it, and the region to prefer the
    larger (smaller) value, a NaN, and of equal ones the smaller index.
    """
    dimensions = int_list(op, "dimensions")
    iota = defined_by(op.operands[1], "stablehlo.iota") if len(op.operands) == 4 else None
    if iota is None or len(dimensions) != 1 or ir.IntegerAttr(iota.attributes["iota_dimension"]).value != dimensions[0]:
        raise NotConvertible("a reduction of several operands is converted where it is jnp.argmax or jnp.argmin")
    body = op.regions[0].blocks[0]
    a, i, b, j = body.arguments
    ordered = [c for c in walk_named(op, "stablehlo.compare") if list(c.operands) == [a, b]]
    directions = {comparison_direction(c) for c in ordered}
    indexes = [c for c in walk_named(op, "stablehlo.compare") if list(c.operands) == [i, j]]
    unordered = [c for c in walk_named(op, "stablehlo.compare") if list(c.operands) == [a, a]]
    larger, smaller = "GT" in directions, "LT" in directions
    if larger == smaller or [comparison_direction(c) for c in indexes] != ["LT"] or "EQ" not in directions:
        raise NotConvertible("a reduction of several operands is converted where it is jnp.argmax or jnp.argmin")
    if is_float(onnx_type(op.operands[0])) and [comparison_direction(c) for c in unordered] != ["NE"]:
        raise NotConvertible("an argmax of floats is converted where a NaN comes first, as jnp.argmax has it")
    return ("ArgMax" if larger else "ArgMin"), dimensions[0]
