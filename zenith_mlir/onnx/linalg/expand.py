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
from zenith_mlir.onnx.linalg.calls import Function, function_of

__all__ = ["LINEAR_ALGEBRA", "expand_linalg"]

LINEAR_ALGEBRA = ("stablehlo.cholesky", "stablehlo.triangular_solve", "stablehlo.custom_call")


def expand_linalg(module: Module, is_symbolic: Callable[[int], bool] = lambda size: False) -> None:
    """Replace factorisations and solvers in `module`, of float32 and float64 and of matrices whose sizes are known."""
    with module.context:
        for op in walk_program(module.operation, *LINEAR_ALGEBRA):
            function = function_of(op)
            if function is not None and _is_known(op, is_symbolic):
                _expand(op, function)


def _data(op: ir.Operation) -> list[ir.Value]:
    """The operands without the shapes of results, which come last where sizes were symbolic."""
    shapes = len(op.results) if "indices_of_shape_operands" in op.attributes else 0
    return list(op.operands)[: len(op.operands) - shapes]


def _is_known(op: ir.Operation, is_symbolic: Callable[[int], bool]) -> bool:
    data = _data(op)
    rank = max(len(shape(value)) for value in data)
    matrices = [shape(value) for value in data if len(shape(value)) == rank]
    known = not any(is_symbolic(size) for each in matrices for size in each[-2:])
    return known and all(numpy_dtype(element_type(value)).kind == "f" for value in data)


def _expand(op: ir.Operation, function: Function) -> None:
    operands = [TensorSpec(shape(value), numpy_dtype(element_type(value))) for value in op.operands]
    named = map(op.attributes.__getitem__, range(len(op.attributes)))
    attributes = sorted(f"{each.name}={each.attr}" for each in named)
    results = tuple(str(value.type) for value in op.results)
    count = len(_data(op))
    key = (op.name, *attributes, *map(str, operands), *results)
    splice_function(op, key, lambda *values: function(*values[:count]), operands, "cpu")
