"""Small programs of plain arithmetic, computed by NumPy: to compile them takes longer than all else of an export.

Only operations of which NumPy's result is XLA's, bit by bit but for the last one of a reciprocal root.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from jaxlib.mlir import ir

from zenith_mlir.ir.elements import elements
from zenith_mlir.ir.facts import element_type
from zenith_mlir.ir.signature import numpy_dtype
from zenith_mlir.match.constants import MOVES

__all__ = ["can_compute", "compute"]

Array = np.ndarray[Any, Any]
Rule = Callable[..., Array | None]


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


def _plain(function: Callable[..., Array]) -> Rule:
    return lambda op, *operands: function(*operands)


_NAMED: dict[str, Rule] = {
    **MOVES,
    "abs": _plain(np.abs),
    "add": _plain(np.add),
    "and": _plain(np.bitwise_and),
    "concatenate": lambda op, *xs: np.concatenate(xs, ir.IntegerAttr(op.attributes["dimension"]).value),
    "constant": elements,
    "convert": lambda op, x: x.astype(numpy_dtype(element_type(op.results[0]))),
    "divide": _plain(np.divide),
    "maximum": _plain(np.maximum),
    "minimum": _plain(np.minimum),
    "multiply": _plain(np.multiply),
    "negate": _plain(np.negative),
    "not": _plain(np.invert),
    "or": _plain(np.bitwise_or),
    "rsqrt": _plain(lambda x: 1 / np.sqrt(x)),
    "sqrt": _plain(np.sqrt),
    "subtract": _plain(np.subtract),
}
_RULES = {f"stablehlo.{name}": rule for name, rule in _NAMED.items()}
