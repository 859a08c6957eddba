"""Sorting and the largest elements: TopK, which ONNX defines to be stable, and of which onnxruntime puts NaN last where
it takes the smallest and first where it takes the largest.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx_ir as oir
from jaxlib.mlir import ir

from zenith_mlir.canonical.splats import comparison_direction
from zenith_mlir.ir.facts import defined_by, shape, walk_named
from zenith_mlir.onnx.arrange import in_order
from zenith_mlir.onnx.builder import Builder
from zenith_mlir.onnx.convert import Lowering, NotConvertible, Walk, onnx_type
from zenith_mlir.onnx.lower.comparators import keys
from zenith_mlir.onnx.runtime_kernels import compute_type
from zenith_mlir.onnx.view import View

__all__ = ["SORT", "approx_top_k"]

_D = oir.DataType


def _sort(walk: Walk, op: ir.Operation) -> Sequence[View]:
    builder = walk.builder
    d = ir.IntegerAttr(op.attributes["dimension"]).value
    views = [walk.view(value) for value in op.operands]
    dims = views[0].shape
    # Dimensions along which nothing differs are sorted once; all operands are stored alike.
    order = [i for i in range(len(dims)) if i == d or any(view.axes[i] is not None for view in views)]
    axis, size = order.index(d), dims[d]
    stored = [builder.expand(in_order(builder, view, order), [dims[i] for i in order]) for view in views]
    axes = tuple(order.index(i) if i in order else None for i in range(len(dims)))

    def along(value: oir.Value, places: oir.Value) -> oir.Value:
        return builder.op("GatherElements", value, places, shape=builder.shape(value), axis=axis)

    # The last key first: a stable sort keeps its order among equals of those before.
    *further, first = reversed(keys(op.regions[0].blocks[0]))
    places: oir.Value | None = None
    for key in further:
        value = stored[key.operand] if places is None else along(stored[key.operand], places)
        _, order_of_key = _top_k(builder, value, axis, size, key.descending)
        places = order_of_key if places is None else along(places, order_of_key)
    value = stored[first.operand] if places is None else along(stored[first.operand], places)
    best, order_of_key = _top_k(builder, value, axis, size, first.descending)
    places = order_of_key if places is None else along(places, order_of_key)
    results = []
    for i, (operand, view) in enumerate(zip(op.operands, stored, strict=True)):
        if i == first.operand:
            results.append(best)
        elif _counts_along(operand, d):
            results.append(builder.cast(places, onnx_type(operand)))
        else:
            results.append(along(view, places))
    return [View(result, axes, dims) for result in results]


def _counts_along(value: ir.Value, d: int) -> bool:
    iota = defined_by(value, "stablehlo.iota")
    return iota is not None and ir.IntegerAttr(iota.attributes["iota_dimension"]).value == d


def _top_k(builder: Builder, value: oir.Value, axis: int, k: int, largest: bool) -> tuple[oir.Value, oir.Value]:
    """The k first elements along an axis and where they were, in int64."""
    dtype = value.dtype
    assert dtype is not None
    dims = [k if i == axis else size for i, size in enumerate(builder.shape(value))]
    key = _comparable(builder, value)
    assert key.dtype is not None
    results = [(key.dtype, dims), (_D.INT64, dims)]
    operands = [key, builder.dims([k])]
    best, places = builder.nodes("TopK", operands, results, axis=axis, largest=int(largest), sorted=1)
    if dtype == _D.UINT64:
        best = builder.op("GatherElements", value, places, shape=dims, axis=axis)
    return builder.cast(best, dtype), places


def _comparable(builder: Builder, value: oir.Value) -> oir.Value:
    """In a type that onnxruntime compares, in the same order."""
    dtype = value.dtype
    assert dtype is not None
    if dtype == _D.UINT64:
        half = builder.scalar(np.uint64(2**63), dtype)
        return builder.cast(builder.op("Add", value, half, shape=builder.shape(value)), _D.INT64)
    return builder.cast(value, _D.FLOAT if dtype == _D.FLOAT16 else compute_type("TopK", dtype, builder.opset))


def _chlo_top_k(walk: Walk, op: ir.Operation) -> Sequence[View]:
    """Zeros of both signs count as equal, and all NaN as the largest number."""
    size = shape(op.operands[0])[-1:]
    return _first(walk, op, len(shape(op.operands[0])) - 1, min(ir.IntegerAttr(op.attributes["k"]).value, *size), True)


def _first(walk: Walk, op: ir.Operation, d: int, k: int, largest: bool) -> Sequence[View]:
    """Values and indices of the k first elements along dimension d."""
    builder, view = walk.builder, walk.view(op.operands[0])
    order = [i for i in range(view.rank) if i == d or view.axes[i] is not None]
    value = builder.expand(in_order(builder, view, order), [view.shape[i] for i in order])
    best, places = _top_k(builder, value, order.index(d), k, largest)
    axes = tuple(order.index(i) if i in order else None for i in range(view.rank))
    dims = shape(op.results[0])
    return [View(best, axes, dims), View(builder.cast(places, onnx_type(op.results[1])), axes, dims)]


def approx_top_k(walk: Walk, op: ir.Operation) -> Sequence[View]:
    """jax.lax.approx_max_k and approx_min_k, of which all are found.

    Raises:
        NotConvertible: where more than k elements are asked for.
    """
    config = ir.DictAttr(op.attributes["mhlo.backend_config"])
    d, k = (ir.IntegerAttr(config[name]).value for name in ("reduction_dim", "top_k"))
    names = ir.ArrayAttr(op.attributes["called_computations"])
    comparator = walk.functions[ir.FlatSymbolRefAttr(names[0]).value]
    directions = {comparison_direction(compare) for compare in walk_named(comparator, "stablehlo.compare")}
    if len(op.operands) != 4 or not _counts_along(op.operands[1], d) or directions not in ({"GT"}, {"LT"}):
        raise NotConvertible("an approximate top k is converted where it is jax.lax.approx_max_k or approx_min_k")
    if shape(op.results[0])[d] != k:
        raise NotConvertible("an approximate top k is converted with aggregate_to_topk=True")
    return _first(walk, op, d, k, directions == {"GT"})


SORT: dict[str, Lowering] = {"stablehlo.sort": _sort, "chlo.top_k": _chlo_top_k}
