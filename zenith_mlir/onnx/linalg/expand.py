"""Calls of LAPACK become programs that compute the same."""

from __future__ import annotations

from collections.abc import Callable

from jaxlib.mlir import ir

from zenith_mlir.dialects.implementation import TensorSpec
from zenith_mlir.ir.composites import walk_program
from zenith_mlir.ir.facts import element_type, shape
from zenith_mlir.ir.signature import numpy_dtype
from zenith_mlir.ir.splice import splice_function
from zenith_mlir.module import Module
from zenith_mlir.onnx.linalg.calls import function_of

__all__ = ["LINEAR_ALGEBRA", "expand_linalg"]

LINEAR_ALGEBRA = ("stablehlo.cholesky", "stablehlo.triangular_solve", "stablehlo.custom_call")


def expand_linalg(module: Module, is_symbolic: Callable[[int], bool] = lambda size: False) -> None:
    """Replace factorisations and solvers in `module`, of float32 and float64 and of sizes that are known."""
    with module.context:
        for op in walk_program(module.operation, *LINEAR_ALGEBRA):
            operands = [TensorSpec(shape(value), numpy_dtype(element_type(value))) for value in op.operands]
            known = not any(is_symbolic(size) for spec in operands for size in spec.shape[-2:])
            if known and all(spec.dtype.kind == "f" for spec in operands):
                _expand(op, operands)


def _expand(op: ir.Operation, operands: list[TensorSpec]) -> None:
    function = function_of(op)
    if function is not None:
        named = map(op.attributes.__getitem__, range(len(op.attributes)))
        attributes = sorted(f"{each.name}={each.attr}" for each in named)
        results = tuple(str(value.type) for value in op.results)
        splice_function(op, (op.name, *attributes, *map(str, operands), *results), function, operands, "cpu")
