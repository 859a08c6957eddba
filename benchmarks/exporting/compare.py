"""Whether an exported model gives the numbers that JAX gives."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]

# Largest difference, relative to the largest finite number of the result: by the dtype that JAX gives. bfloat16 may
# differ by a rounding (2^-7), which is more than 1e-3.
TOLERANCES = {"float16": 1e-3, "bfloat16": 2.0**-7, "float64": 1e-7, "complex128": 1e-7}
TOLERANCE = 1e-5


@dataclass(frozen=True)
class Agreement:
    """`error` is the largest difference relative to the result's scale; `fault` says what is wrong, if something is;
    `types` names results whose dtype is another than JAX's.
    """

    error: float
    fault: str = ""
    types: str = ""


def agreement(found: Sequence[Array], expected: Sequence[Array]) -> Agreement:
    """Compare all results with what JAX gives: floats within the tolerance of their dtype, with NaN and infinities in
    the same places; integers and booleans equal.
    """
    if len(found) != len(expected):
        return Agreement(np.inf, f"{len(found)} results, expected {len(expected)}")
    results = [_one(np.asarray(f), np.asarray(e)) for f, e in zip(found, expected, strict=True)]
    worst = max((result.error for result in results), default=0.0)
    fault = next((f"result {i}: {result.fault}" for i, result in enumerate(results) if result.fault), "")
    types = "; ".join(f"result {i}: {result.types}" for i, result in enumerate(results) if result.types)
    return Agreement(worst, fault, types)


def _one(found: Array, expected: Array) -> Agreement:
    if expected.dtype.kind == "c" and found.shape == (*expected.shape, 2):
        found = found[..., 0] + 1j * found[..., 1]
    if found.shape != expected.shape:
        return Agreement(np.inf, f"shape {found.shape}, expected {expected.shape}")
    types = "" if found.dtype == expected.dtype else f"{found.dtype.name}, expected {expected.dtype.name}"
    if not _inexact(expected) and not _inexact(found):
        wrong = int(np.sum(found != expected))
        return Agreement(float(wrong > 0), f"{wrong} of {expected.size} differ" if wrong else "", types)
    wide = np.complex128 if expected.dtype.kind == "c" else np.float64
    error, fault = _floats(found.astype(wide), expected.astype(wide))
    tolerance = TOLERANCES.get(expected.dtype.name, TOLERANCE)
    return Agreement(error, fault or (f"differs by {error:.1e} of the scale" if error > tolerance else ""), types)


def _floats(found: Array, expected: Array) -> tuple[float, str]:
    if np.any(np.isnan(found) != np.isnan(expected)):
        return np.inf, f"{int(np.isnan(found).sum())} NaN, expected {int(np.isnan(expected).sum())}"
    infinite = np.isinf(found) | np.isinf(expected)
    if np.any(found[infinite] != expected[infinite]):
        return np.inf, "infinities in other places"
    finite = np.isfinite(expected)
    scale = float(np.max(np.abs(expected[finite]), initial=0.0)) or 1.0
    return float(np.max(np.abs(found[finite] - expected[finite]), initial=0.0)) / scale, ""


def _inexact(array: Array) -> bool:
    return array.dtype.kind in "fc" or array.dtype.name.startswith(("bfloat", "float"))
