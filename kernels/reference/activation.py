"""The mathematics of the activation kernels in numpy float64, the judge of their numerics."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from zenith_mlir.kernels.cpu.activation import Kind

Array = npt.NDArray[Any]

_erf = np.vectorize(math.erf, otypes=[np.float64])
_erfc = np.vectorize(math.erfc, otypes=[np.float64])


def activation(kind: Kind, x: Array, slope: float = 1.0, dtype: npt.DTypeLike = np.float64) -> Array:
    """The plain formula in `dtype`. With float32 it is the naive program that the kernel competes with."""
    with np.errstate(all="ignore"):
        return _VALUES[kind](x.astype(dtype), np.asarray(slope, dtype))


def derivative(kind: Kind, x: Array, slope: float = 1.0, dtype: npt.DTypeLike = np.float64) -> Array:
    """The derivative of the plain formula in `dtype`."""
    with np.errstate(all="ignore"):
        return _DERIVATIVES[kind](x.astype(dtype), np.asarray(slope, dtype))


def _cdf(x: Array) -> Array:
    """Φ(x): in float64 by erfc, which keeps small values; narrower by the plain 1 + erf."""
    if x.dtype == np.float64:
        return np.asarray(0.5 * _erfc(-x * math.sqrt(0.5)))
    return np.asarray(x.dtype.type(0.5) * (1 + _erf(x * x.dtype.type(math.sqrt(0.5))).astype(x.dtype)))


def _density(x: Array) -> Array:
    return np.asarray(np.exp(x.dtype.type(-0.5) * x * x) * x.dtype.type(1 / math.sqrt(2 * math.pi)))


def _logistic(x: Array) -> Array:
    return np.asarray(1 / (1 + np.exp(-x)))


def _tanh_argument(x: Array) -> Array:
    return np.asarray(x.dtype.type(math.sqrt(2 / math.pi)) * (x + x.dtype.type(0.044715) * x**3))


def _half_tanh(x: Array) -> Array:
    """(1 + tanh u) / 2; in float64 as a logistic function, which keeps small values."""
    u = _tanh_argument(x)
    return np.asarray(_logistic(2 * u) if x.dtype == np.float64 else x.dtype.type(0.5) * (1 + np.tanh(u)))


def _gelu_tanh_derivative(x: Array, slope: Any) -> Array:
    inner = x.dtype.type(math.sqrt(2 / math.pi)) * (1 + x.dtype.type(3 * 0.044715) * x**2)
    return np.asarray(_half_tanh(x) + x.dtype.type(0.5) * x * (1 - np.tanh(_tanh_argument(x)) ** 2) * inner)


def _silu_derivative(x: Array, slope: Any) -> Array:
    s = _logistic(slope * x)
    return np.asarray(s + x * s * (1 - s) * slope)


_VALUES: dict[Kind, Callable[[Array, Any], Array]] = {
    Kind.GELU: lambda x, slope: x * _cdf(x),
    Kind.GELU_TANH: lambda x, slope: x * _half_tanh(x),
    Kind.SILU: lambda x, slope: x * _logistic(slope * x),
    Kind.SIGMOID: lambda x, slope: _logistic(slope * x),
    Kind.RELU: lambda x, slope: np.maximum(x, 0),
}
_DERIVATIVES: dict[Kind, Callable[[Array, Any], Array]] = {
    Kind.GELU: lambda x, slope: _cdf(x) + x * _density(x),
    Kind.GELU_TANH: _gelu_tanh_derivative,
    Kind.SILU: _silu_derivative,
    Kind.SIGMOID: lambda x, slope: slope * _logistic(slope * x) * (1 - _logistic(slope * x)),
    Kind.RELU: lambda x, slope: (x > 0).astype(x.dtype),
}
