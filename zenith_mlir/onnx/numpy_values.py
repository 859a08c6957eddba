"""Small programs of plain arithmetic, computed by NumPy: to compile them takes longer than all else of an export.

Only operations of which NumPy's result is XLA's, bit by bit but for the last one of a reciprocal root.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from jaxlib.mlir import ir

from zenith_mlir.canonical.splats import COMPARE, comparison_direction
from zenith_mlir.ir.elements import elements
from zenith_mlir.ir.facts import element_type, int_list, shape
from zenith_mlir.ir.signature import numpy_dtype

__all__ = ["can_compute", "compute"]

Array = np.ndarray[Any, Any]
Rule = Callable[..., Array]


def can_compute(ops: Sequence[ir.Operation]) -> bool:
    """Whether there is a rule for every one of these operations."""
    return all(op.name in _RULES and _is_exact(op) for op in ops)


def compute(ops: Sequence[ir.Operation], known: Mapping[ir.Value, Array]) -> dict[ir.Value, Array]:
    """The results of `ops`, in program order, from those of other operations that are known."""
    values = dict(known)
    with np.errstate(all="ignore"):
        for op in ops:
            result = op.results[0]
            found = _RULES[op.name](op, *(values[operand] for operand in op.operands))
            values[result] = np.asarray(found, numpy_dtype(element_type(result)))
    return values


def _is_exact(op: ir.Operation) -> bool:
    """Integers are divided and floats made integers in other ways by NumPy."""
    kinds = {numpy_dtype(element_type(value)).kind for value in [*op.operands, *op.results]}
    if op.name in ("stablehlo.divide", "stablehlo.convert"):
        return not kinds & set("iubc") or (op.name == "stablehlo.convert" and kinds <= set("iub"))
    return "c" not in kinds


def _broadcast(op: ir.Operation, x: Array) -> Array:
    dims = shape(op.results[0])
    own = int_list(op, "broadcast_dimensions")
    line = [1] * len(dims)
    for size, d in zip(x.transpose(np.argsort(own)).shape, sorted(own), strict=True):
        line[d] = size
    return np.broadcast_to(x.transpose(np.argsort(own)).reshape(line), dims)


def _slice(op: ir.Operation, x: Array) -> Array:
    bounds = (int_list(op, name) for name in ("start_indices", "limit_indices", "strides"))
    return x[tuple(slice(*bound) for bound in zip(*bounds, strict=True))]


def _iota(op: ir.Operation) -> Array:
    dims = shape(op.results[0])
    d = ir.IntegerAttr(op.attributes["iota_dimension"]).value
    return np.broadcast_to(np.arange(dims[d]).reshape([-1 if i == d else 1 for i in range(len(dims))]), dims)


def _plain(function: Callable[..., Array]) -> Rule:
    return lambda op, *operands: function(*operands)


_NAMED: dict[str, Rule] = {
    "abs": _plain(np.abs),
    "add": _plain(np.add),
    "and": _plain(np.bitwise_and),
    "broadcast_in_dim": _broadcast,
    "compare": lambda op, x, y: COMPARE[comparison_direction(op)](x, y),
    "concatenate": lambda op, *xs: np.concatenate(xs, ir.IntegerAttr(op.attributes["dimension"]).value),
    "constant": elements,
    "convert": lambda op, x: x.astype(numpy_dtype(element_type(op.results[0]))),
    "divide": _plain(np.divide),
    "iota": _iota,
    "maximum": _plain(np.maximum),
    "minimum": _plain(np.minimum),
    "multiply": _plain(np.multiply),
    "negate": _plain(np.negative),
    "not": _plain(np.invert),
    "or": _plain(np.bitwise_or),
    "reshape": lambda op, x: x.reshape(shape(op.results[0])),
    "rsqrt": _plain(lambda x: 1 / np.sqrt(x)),
    "select": _plain(np.where),
    "slice": _slice,
    "sqrt": _plain(np.sqrt),
    "subtract": _plain(np.subtract),
    "transpose": lambda op, x: x.transpose(int_list(op, "permutation")),
}
_RULES = {f"stablehlo.{name}": rule for name, rule in _NAMED.items()}
