"""Whether start indices lie within the bounds, as jax.numpy asks before it fills in for those that do not."""

from __future__ import annotations

import numpy as np
import onnx_ir as oir
from jaxlib.mlir import ir

from zenith_mlir.canonical.splats import comparison_direction
from zenith_mlir.ir.facts import defined_by, int_list, shape
from zenith_mlir.onnx.arrange import elementwise
from zenith_mlir.onnx.convert import Walk
from zenith_mlir.onnx.lower.indices import column, column_of, known_integers, start
from zenith_mlir.onnx.view import View

__all__ = ["in_bounds"]


def in_bounds(walk: Walk, op: ir.Operation) -> View | None:
    """For a reduction by `and` of `(indices >= 0) & (indices <= last)` over the vectors of indices: where clamping the
    indices for the gather, which is done anyway, leaves them as they are.
    """
    both = defined_by(op.operands[0], "stablehlo.and")
    dimensions = int_list(op, "dimensions")
    if both is None or len(dimensions) != 1:
        return None
    compares = [defined_by(operand, "stablehlo.compare") for operand in both.operands]
    if any(compare is None for compare in compares):
        return None
    by_direction = {comparison_direction(compare): compare for compare in compares if compare is not None}
    low, high = by_direction.get("GE"), by_direction.get("LE")
    if low is None or high is None or low.operands[0] != high.operands[0]:
        return None
    indices, sizes = low.operands[0], walk.builder.sizes
    first, last = known_integers(sizes, low.operands[1]), known_integers(sizes, high.operands[1])
    if first is None or last is None or first.any() or first.dtype.kind not in "iu":
        return None
    (dimension,) = dimensions
    result: View | None = None
    for k in range(shape(indices)[dimension]):
        bounds = column_of(last, last.ndim, dimension, k)
        if not bounds.size or (bounds != bounds.flat[0]).any() or bounds.flat[0] < 0:
            return None
        found = start(walk, column(walk, indices, dimension, k), int(bounds.flat[0]) + 1, 1).inside(walk)
        if found is not None:
            result = found if result is None else elementwise(walk.builder, "And", result, found)
    return _everywhere(walk, shape(op.results[0])) if result is None else result


def _everywhere(walk: Walk, dims: tuple[int, ...]) -> View:
    return View(walk.builder.constant(np.asarray(True), oir.DataType.BOOL), (None,) * len(dims), dims)
