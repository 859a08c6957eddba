"""The activations that have an op, and which of them a function given by its values is.

gelu x Φ(x), gelu_tanh x (1 + tanh(√(2/π) (x + 0.044715 x³))) / 2, silu x σ(slope x): see dialects/activations.py.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from zenith_mlir.match.activation.cone import GRID
from zenith_mlir.match.activation.elementwise import Array, erf, logistic

# How far off functions of float32 constants are, relative to x.
_FINE = 5e-7
_ONE = int(np.searchsorted(GRID, 1.0))
_SMALL = int(np.searchsorted(GRID, 0.25))
_ZERO = int(np.searchsorted(GRID, 0.0))
_SLOPES = (0.05, 20.0)


@dataclass(frozen=True)
class Activation:
    """One of dialects/activations.py: `kind` is its name there."""

    kind: str
    slope: float = 1.0

    @property
    def values(self) -> Array:
        return _VALUES[self.kind](GRID, self.slope)

    @property
    def derivative(self) -> Array:
        return _DERIVATIVES[self.kind](GRID, self.slope)


def _gelu(x: Array, slope: float) -> Array:
    y: Array = 0.5 * x * (1 + erf(x / math.sqrt(2)))
    return y


def _gelu_derivative(x: Array, slope: float) -> Array:
    y: Array = 0.5 * (1 + erf(x / math.sqrt(2))) + x * np.exp(-0.5 * x * x) / math.sqrt(2 * math.pi)
    return y


def _gelu_tanh(x: Array, slope: float) -> Array:
    y: Array = 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))
    return y


def _gelu_tanh_derivative(x: Array, slope: float) -> Array:
    t = np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))
    y: Array = 0.5 * (1 + t) + 0.5 * x * (1 - t * t) * math.sqrt(2 / math.pi) * (1 + 3 * 0.044715 * x * x)
    return y


def _silu(x: Array, slope: float) -> Array:
    y: Array = x * logistic(slope * x)
    return y


def _silu_derivative(x: Array, slope: float) -> Array:
    s = logistic(slope * x)
    y: Array = s + slope * x * s * (1 - s)
    return y


_VALUES: dict[str, Callable[[Array, float], Array]] = {"gelu": _gelu, "gelu_tanh": _gelu_tanh, "silu": _silu}
_DERIVATIVES: dict[str, Callable[[Array, float], Array]] = {
    "gelu": _gelu_derivative,
    "gelu_tanh": _gelu_tanh_derivative,
    "silu": _silu_derivative,
}
_FIXED = (Activation("gelu"), Activation("gelu_tanh"))


def tolerance(coarse: float) -> float:
    """How far functions may be off, relative to x, whose constants are off by `coarse`.

    A relative error of the argument u of tanh counts |x u / cosh² u| / 2, at most 0.23 |x|, of erf 0.24 |x|; rounding
    makes one of half of `coarse`.
    """
    return max(_FINE, 0.135 * coarse)


def equal(found: Array, expected: Array, coarse: float) -> bool:
    """Whether two functions are equal at all points, but for constants that are off by `coarse`."""
    bound = tolerance(coarse) * np.abs(GRID) + 1e-9
    return bool(np.all(np.isfinite(found)) and np.all(np.abs(found - expected) <= bound))


def equal_derivatives(found: Array, expected: Array, coarse: float) -> bool:
    bound = 4 * tolerance(coarse)
    return bool(np.all(np.isfinite(found)) and np.all(np.abs(found - expected) <= bound))


def recognise(found: Array, coarse: float) -> Activation | None:
    """The activation whose values these are."""
    if found.shape != GRID.shape or found[_ZERO] != 0 or not 0 < found[_ONE] < 1:
        return None
    fitting = [known for known in _candidates(_slope_of(found)) if equal(found, known.values, coarse)]
    return min(fitting, key=lambda known: float(np.abs(found - known.values).max()), default=None)


def recognise_derivative(found: Array, coarse: float) -> Activation | None:
    """The activation whose derivative this is."""
    if found.shape != GRID.shape or abs(found[_ZERO] - 0.5) > 1e-2:
        return None
    candidates = _candidates(_slope_of_derivative(found))
    fitting = [known for known in candidates if equal_derivatives(found, known.derivative, coarse)]
    return min(fitting, key=lambda known: float(np.abs(found - known.derivative).max()), default=None)


def _candidates(slope: float) -> list[Activation]:
    # What is compared is what the attribute will say: a number as short as float32 tells it from others.
    short = float(str(np.float32(slope)))
    known = [Activation("silu", short)] if _SLOPES[0] <= short <= _SLOPES[1] else []
    return [*known, *_FIXED]


def _slope_of(found: Array) -> float:
    """That of a silu: σ(slope) is its value at 1."""
    return math.log(found[_ONE] / (1 - found[_ONE]))


def _slope_of_derivative(found: Array) -> float:
    """That of a silu's derivative, by its value at a small point, where it grows with the slope."""
    x, low, high = GRID[_SMALL : _SMALL + 1], *_SLOPES
    if not _silu_derivative(x, low)[0] <= found[_SMALL] <= _silu_derivative(x, 6.0)[0]:
        return math.nan
    high = 6.0
    for _ in range(60):
        middle = 0.5 * (low + high)
        low, high = (middle, high) if _silu_derivative(x, middle)[0] < found[_SMALL] else (low, middle)
    return 0.5 * (low + high)
