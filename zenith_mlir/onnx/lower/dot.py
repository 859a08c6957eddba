"""dot_general as MatMul: transposes and reshapes only where the operands are not stored as it wants them."""

from __future__ import annotations

import math
from collections.abc import Sequence

import onnx_ir as oir
from jaxlib.mlir import ir

from zenith_mlir.ir.dots import DotDims
from zenith_mlir.ir.facts import shape
from zenith_mlir.onnx.arrange import in_order, stored_view
from zenith_mlir.onnx.builder import Builder
from zenith_mlir.onnx.convert import Lowering, Walk, onnx_type
from zenith_mlir.onnx.view import View

__all__ = ["DOT", "contract"]

_BYTES = (oir.DataType.INT8, oir.DataType.UINT8)


def _dot_general(walk: Walk, op: ir.Operation) -> Sequence[View]:
    left, right = (walk.view(value) for value in op.operands)
    return [contract(walk.builder, left, right, DotDims.of(op), shape(op.results[0]), onnx_type(op.results[0]))]


def contract(
    builder: Builder, left: View, right: View, dims: DotDims, result: tuple[int, ...], dtype: oir.DataType
) -> View:
    """The product with dimensions: batching, free of the left, free of the right operand.

    Weights on the left go to the right, where MatMul takes them with any number of rows.
    """
    if not dims.lhs_batch and left.value.const_value is not None and right.value.const_value is None:
        return _turned(builder, left, right, dims, result, dtype)
    left, right = _in_type(builder, left, right, dtype)
    rows, columns = dims.lhs_free(left.rank), dims.rhs_free(right.rank)
    x_groups = [[d] for d in dims.lhs_batch] + [rows, list(dims.lhs_contracting)]
    y_groups = [[d] for d in dims.rhs_batch] + [list(dims.rhs_contracting), columns]
    if not dims.lhs_batch and rows:
        x_groups[:1] = [[d] for d in rows]
    x = _grouped(builder, left, x_groups, len(dims.lhs_batch))
    right = stored_view(
        builder, right, [r for b, r in zip(dims.lhs_batch, dims.rhs_batch, strict=True) if b in left.repeated]
    )
    y = _grouped(builder, right, y_groups, len(dims.rhs_batch))
    batch = [left.shape[d] for d in dims.lhs_batch] if dims.lhs_batch else list(builder.shape(x)[:-2])
    product = _matmul(builder, x, y, [*batch, builder.shape(x)[-2], builder.shape(y)[-1]], dtype)
    return View.of(builder.reshape(product, result), result)


def _turned(
    builder: Builder, left: View, right: View, dims: DotDims, result: tuple[int, ...], dtype: oir.DataType
) -> View:
    """The product of the operands in the other order, seen as it should be."""
    free, rank = len(dims.lhs_free(left.rank)), len(result)
    other = DotDims((), (), dims.rhs_contracting, dims.lhs_contracting)
    view = contract(builder, right, left, other, result[free:] + result[:free], dtype)
    return view.transposed([*range(rank - free, rank), *range(rank - free)])


def _grouped(builder: Builder, view: View, groups: Sequence[Sequence[int]], batch: int) -> oir.Value:
    """A value with an axis for each group, of the product of its dimensions. Only the first `batch` may repeat."""
    view = stored_view(builder, view, [d for group in groups[batch:] for d in group])
    value = in_order(builder, view, [d for group in groups for d in group])
    lead = list(builder.shape(value)[:batch])
    return builder.reshape(value, lead + [math.prod(view.shape[d] for d in group) for group in groups[batch:]])


def _in_type(builder: Builder, left: View, right: View, dtype: oir.DataType) -> tuple[View, View]:
    """Operands in the type in which the product is accumulated; bytes stay, MatMulInteger multiplies them."""
    if left.dtype in _BYTES and right.dtype in _BYTES and dtype == oir.DataType.INT32:
        return left, right
    left, right = (view.with_value(builder.cast(view.value, dtype)) for view in (left, right))
    return left, right


def _matmul(builder: Builder, x: oir.Value, y: oir.Value, dims: Sequence[int], dtype: oir.DataType) -> oir.Value:
    if x.dtype in _BYTES and dtype == oir.DataType.INT32:
        return builder.nodes("MatMulInteger", [x, y], [(dtype, dims)])[0]
    return builder.op("MatMul", x, y, shape=dims)


DOT: dict[str, Lowering] = {"stablehlo.dot_general": _dot_general}
