"""Constants that hold nothing but -1, 0 and 1: products with them permute, negate and drop."""

from __future__ import annotations

from math import prod

import numpy as np
from jaxlib.mlir import ir
from numpy.typing import NDArray

from zenith_mlir.ir.facts import defining_op, shape, splat
from zenith_mlir.match.constants import evaluate

_MAX_ELEMENTS = 1 << 14
_LAID_OUT = ("stablehlo.broadcast_in_dim", "stablehlo.reshape", "stablehlo.convert")


def signs(constant: ir.Value) -> NDArray[np.float64] | None:
    number = splat(constant)
    if number is not None:
        return np.broadcast_to(np.float64(number), shape(constant)) if number in (-1, 0, 1) else None
    values = evaluate(constant) if prod(shape(constant)) <= _MAX_ELEMENTS else None
    return values.astype(np.float64) if values is not None and np.isin(values, (-1, 0, 1)).all() else None


def is_signs(value: ir.Value) -> bool:
    op = defining_op(value)
    while op is not None and op.name in _LAID_OUT:
        op = defining_op(op.operands[0])
    return op is not None and op.name == "stablehlo.constant" and signs(op.results[0]) is not None
