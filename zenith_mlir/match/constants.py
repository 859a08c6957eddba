"""Exact evaluation of values that depend on constants only."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from jaxlib.mlir import ir

from zenith_mlir.canonical.splats import COMPARE, comparison_direction, numpy_dtype
from zenith_mlir.ir.facts import defining_op, element_type, has_static_shape, int_list, shape, splat

# A mask of 4096 x 4096 is 16 Mi elements; what is larger is not worth the memory at compile time.
MAX_ELEMENTS = 1 << 24
_MAX_DEPTH = 32


def evaluate(value: ir.Value) -> np.ndarray | None:
    """The value as a numpy array if only constants, iotas and exact integer, boolean or shape operations lead to it."""
    return _evaluate(value, {}, 0)


def _evaluate(value: ir.Value, known: dict[ir.Value, np.ndarray | None], depth: int) -> np.ndarray | None:
    if value not in known:
        known[value] = None if depth > _MAX_DEPTH else _evaluate_op(value, known, depth)
    return known[value]


def _evaluate_op(value: ir.Value, known: dict[ir.Value, np.ndarray | None], depth: int) -> np.ndarray | None:
    op = defining_op(value)
    function = None if op is None else _EVALUATORS.get(op.name)
    if op is None or function is None or not has_static_shape(value):
        return None
    if np.prod(shape(value), dtype=np.float64) > MAX_ELEMENTS:
        return None
    operands = [_evaluate(operand, known, depth + 1) for operand in op.operands]
    if any(operand is None for operand in operands):
        return None
    return function(op, *operands)


def _constant(op: ir.Operation) -> np.ndarray | None:
    dims, dtype = shape(op.results[0]), numpy_dtype(element_type(op.results[0]))
    if dtype is None:
        return None
    number = splat(op.results[0])
    if number is not None:
        return np.broadcast_to(np.asarray(number, dtype), dims)
    try:
        return np.asarray(op.attributes["value"]).astype(dtype).reshape(dims)
    except (TypeError, ValueError):
        return None


def _iota(op: ir.Operation) -> np.ndarray | None:
    dims, dtype = shape(op.results[0]), numpy_dtype(element_type(op.results[0]))
    dim = ir.IntegerAttr(op.attributes["iota_dimension"]).value
    line = [1] * len(dims)
    line[dim] = dims[dim]
    return None if dtype is None else np.broadcast_to(np.arange(dims[dim]).astype(dtype).reshape(line), dims)


def _broadcast(op: ir.Operation, x: np.ndarray) -> np.ndarray:
    dims, outer = int_list(op, "broadcast_dimensions"), shape(op.results[0])
    order = np.argsort(dims)
    line = [1] * len(outer)
    for i, dim in enumerate(dims):
        line[dim] = x.shape[i]
    return np.broadcast_to(x.transpose(order).reshape(line), outer)


def _slice(op: ir.Operation, x: np.ndarray) -> np.ndarray:
    bounds = (int_list(op, name) for name in ("start_indices", "limit_indices", "strides"))
    return x[tuple(slice(*bound) for bound in zip(*bounds, strict=True))]


def _convert(op: ir.Operation, x: np.ndarray) -> np.ndarray | None:
    dtype = numpy_dtype(element_type(op.results[0]))
    if dtype is None or (x.dtype.kind not in "iub" and dtype.kind in "iub"):
        return None
    return x.astype(dtype)


def _compare(op: ir.Operation, a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return COMPARE[comparison_direction(op)](a, b)


def _select(op: ir.Operation, predicate: np.ndarray, on_true: np.ndarray, on_false: np.ndarray) -> np.ndarray:
    return np.where(predicate, on_true, on_false)


def _every(op: ir.Operation, x: np.ndarray, init: np.ndarray) -> np.ndarray | None:
    """Whether all elements along some dimensions are true, as bounds of indices are checked."""
    body = [child.operation.name for child in op.regions[0].blocks[0].operations]
    if x.dtype != bool or body != ["stablehlo.and", "stablehlo.return"]:
        return None
    return x.all(axis=tuple(int_list(op, "dimensions"))) & init


def _remainder(op: ir.Operation, a: np.ndarray, b: np.ndarray) -> np.ndarray | None:
    return np.fmod(a, b) if b.dtype.kind in "iu" and b.all() else None


def _exact(function: Callable[..., np.ndarray]) -> Callable[..., np.ndarray | None]:
    """Integer and boolean arithmetic wraps in numpy as it does in StableHLO; floats are left alone."""

    def apply(op: ir.Operation, *operands: np.ndarray) -> np.ndarray | None:
        return function(*operands) if all(x.dtype.kind in "iub" for x in operands) else None

    return apply


_EVALUATORS: dict[str, Callable[..., np.ndarray | None]] = {
    "stablehlo.constant": _constant,
    "stablehlo.iota": _iota,
    "stablehlo.broadcast_in_dim": _broadcast,
    "stablehlo.reshape": lambda op, x: x.reshape(shape(op.results[0])),
    "stablehlo.transpose": lambda op, x: x.transpose(int_list(op, "permutation")),
    "stablehlo.slice": _slice,
    "stablehlo.convert": _convert,
    "stablehlo.compare": _compare,
    "stablehlo.select": _select,
    "stablehlo.add": _exact(np.add),
    "stablehlo.subtract": _exact(np.subtract),
    "stablehlo.multiply": _exact(np.multiply),
    "stablehlo.remainder": _remainder,
    "stablehlo.reduce": _every,
    "stablehlo.and": _exact(np.bitwise_and),
    "stablehlo.or": _exact(np.bitwise_or),
    "stablehlo.xor": _exact(np.bitwise_xor),
    "stablehlo.not": _exact(np.invert),
    "stablehlo.maximum": _exact(np.maximum),
    "stablehlo.minimum": _exact(np.minimum),
    "stablehlo.negate": _exact(np.negative),
    "stablehlo.abs": _exact(np.abs),
}

MOVES: dict[str, Callable[..., np.ndarray | None]] = {
    name: _EVALUATORS[f"stablehlo.{name}"]
    for name in ("iota", "broadcast_in_dim", "reshape", "transpose", "slice", "compare", "select")
}
"""What lays elements out or chooses among them, whatever their type, by the name of the operation."""

EXACT_OPS = frozenset(_EVALUATORS) - {"stablehlo.reduce"}
"""Operations that `evaluate` computes exactly, whatever their operands."""
