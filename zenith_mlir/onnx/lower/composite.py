"""stablehlo.composite: ONNX's own fused operator where it means the same, else what the composite is made of."""

from __future__ import annotations

from collections.abc import Sequence

import onnx_ir as oir
from jaxlib.mlir import ir

from zenith_mlir.ir.composites import composite_name, decomposition_name
from zenith_mlir.onnx.convert import Lowering, Walk, onnx_type
from zenith_mlir.onnx.fused import FUSED
from zenith_mlir.onnx.view import View

__all__ = ["COMPOSITE"]


def _composite(walk: Walk, op: ir.Operation) -> Sequence[View]:
    fused = FUSED.get(composite_name(op)) if walk.builder.fused != "never" else None
    found = fused(walk, op) if fused is not None and not _needs_float64(op) else None
    if found is not None:
        walk.builder.fused_ops[composite_name(op)] += 1
        return found
    block = walk.functions[decomposition_name(op)].regions[0].blocks[0]
    return walk.block(block, [walk.view(value) for value in op.operands])


def _needs_float64(op: ir.Operation) -> bool:
    """Most fused operators have no kernel for it, and would be computed in float32."""
    return any(onnx_type(value) == oir.DataType.DOUBLE for value in op.operands)


COMPOSITE: dict[str, Lowering] = {"stablehlo.composite": _composite}
