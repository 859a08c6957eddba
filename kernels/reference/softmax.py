"""The mathematics of softmax and log-softmax in numpy float64, the judge of their kernels."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]


def softmax(x: Array, *, log: bool = False, scale: float = 1.0, dtype: npt.DTypeLike = np.float64) -> Array:
    """The plain formula in `dtype`; takes what `zenith_mlir.kernels.cpu.softmax.softmax_call` takes."""
    with np.errstate(all="ignore"):
        z = x.astype(dtype) * np.asarray(np.float32(scale), dtype)
        z = z - z.max(-1, keepdims=True, initial=-np.inf)
        total = np.exp(z).sum(-1, keepdims=True)
        y: Array = z - np.log(total) if log else np.exp(z) / total
        return y


def softmax_vjp(
    y: Array, cotangent: Array, *, log: bool = False, scale: float = 1.0, dtype: npt.DTypeLike = np.float64
) -> Array:
    """The gradient with respect to x, given the result y of `softmax` and its cotangent."""
    with np.errstate(all="ignore"):
        y, dy, factor = y.astype(dtype), cotangent.astype(dtype), np.asarray(np.float32(scale), dtype)
        inner: Array = dy - np.exp(y) * dy.sum(-1, keepdims=True) if log else y * (dy - (y * dy).sum(-1, keepdims=True))
        return factor * inner
