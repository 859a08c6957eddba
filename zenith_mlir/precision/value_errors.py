"""What is wrong with a computed value, in numbers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

__all__ = ["ValueErrors", "distance", "measure", "own_error"]

Array = NDArray[Any]


@dataclass(frozen=True)
class ValueErrors:
    """A value x̂ of a run, against x, the same in float64, and f(x̂_in): its operation, in float64, of the operands that
    the run had.

    error: ‖x̂ - x‖ / ‖x‖ over the places where both are finite.
    own_error: ‖x̂ - f(x̂_in)‖ / ‖x‖, what the operation adds (rounding of its operands included); the rest is inherited.
    overflow: places where x̂ is not finite and x is.
    own_overflow: those of them where f(x̂_in) is finite: the operation, or a cast of its operands, overflows.
    underflow: places where x is not 0 and x̂ is 0 or subnormal; counted for types of fewer than 32 bits.
    """

    error: float
    own_error: float
    overflow: int
    own_overflow: int
    underflow: int


def measure(run: Array, exact: Array, shadow: Array) -> ValueErrors:
    """The numbers for x̂ = `run`, of any float dtype, x = `exact` and f(x̂_in) = `shadow`, in float64, of one shape."""
    wide = run.astype(np.float64)
    lost = ~np.isfinite(wide) & np.isfinite(exact)
    return ValueErrors(
        error=distance(wide, exact, exact),
        own_error=distance(wide, shadow, exact),
        overflow=int(lost.sum()),
        own_overflow=int((lost & np.isfinite(shadow)).sum()),
        underflow=_underflow(run.dtype, wide, exact),
    )


def distance(x: Array, y: Array, scale: Array) -> float:
    """‖x - y‖ / ‖scale‖ (Euclidean) over the places where all three are finite; 0 for 0 / 0.

    Normwise, since a number that is small only because large ones cancelled has no digits in any precision; in this
    norm independent errors add up as the sides of a right triangle do.
    """
    finite = np.isfinite(x) & np.isfinite(y) & np.isfinite(scale)
    if not finite.all():
        if not finite.any():
            return 0.0 if np.array_equal(x, y, equal_nan=True) else float("inf")
        x, y, scale = x[finite], y[finite], scale[finite]
    difference, size = _norm(x - y), _norm(scale)
    return difference / size if size else (0.0 if difference == 0.0 else float("inf"))


def _norm(x: Array) -> float:
    flat = x.ravel()
    squares = float(np.einsum("i,i", flat, flat))
    if 1e-200 < squares < 1e200:
        return float(np.sqrt(squares))
    # Squares overflow or vanish where the numbers themselves do not.
    largest = float(np.abs(flat).max())
    return largest * float(np.linalg.norm(flat / largest)) if 0.0 < largest < float("inf") else largest


def own_error(run: Array, shadow: Array) -> Array:
    """x̂ - f(x̂_in), 0 where either is not finite."""
    wide = run.astype(np.float64)
    finite = np.isfinite(wide) & np.isfinite(shadow)
    return np.subtract(wide, shadow, out=np.zeros_like(shadow), where=finite)


def _underflow(dtype: np.dtype[Any], wide: Array, exact: Array) -> int:
    if dtype.itemsize >= 4:
        return 0
    smallest = float(ml_dtypes.finfo(dtype).smallest_normal)
    return int(((exact != 0) & np.isfinite(exact) & (np.abs(wide) < smallest)).sum())
