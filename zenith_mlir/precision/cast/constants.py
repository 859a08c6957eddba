"""Which constants a 16-bit type holds."""

from __future__ import annotations

import ml_dtypes
import numpy as np
from jaxlib.mlir import ir

from zenith_mlir.ir.facts import splat


def holds(constant: ir.Operation, dtype: str) -> bool:
    """Whether no finite number of a float `constant` becomes infinite in `dtype`, and none but zero becomes zero.

    A mask fill that becomes -inf makes NaN of a fully masked row; a small epsilon that vanishes, of a division.
    """
    numbers = _numbers(constant)
    if numbers is None:
        return dtype == "bfloat16"
    rounded = _rounded(numbers, dtype)
    finite = np.isfinite(numbers)
    return bool(np.all(np.isfinite(rounded[finite])) and not np.any((rounded == 0) & (numbers != 0)))


def is_exact(constant: ir.Operation, dtype: str) -> bool:
    """Whether `dtype` holds every number of a `constant` as it is."""
    numbers = _numbers(constant)
    if numbers is None:
        return False
    return bool(np.array_equal(_rounded(numbers, dtype), numbers, equal_nan=True))


def _rounded(numbers: np.ndarray, dtype: str) -> np.ndarray:
    with np.errstate(over="ignore", under="ignore"):
        return numbers.astype(getattr(ml_dtypes, dtype, dtype)).astype(np.float32)


def _numbers(constant: ir.Operation) -> np.ndarray | None:
    """The elements of a float constant in float32; one for all of a splat, None if they cannot be read."""
    number = splat(constant.results[0])
    if number is not None:
        return np.asarray([number], np.float32)
    attribute = constant.attributes["value"]
    if not isinstance(attribute, ir.DenseFPElementsAttr):
        return None
    try:
        return np.asarray(attribute).astype(np.float32)
    except (TypeError, ValueError, RuntimeError):
        return None
