"""The mathematics of LayerNorm and RMSNorm in numpy float64, the judge of their kernels."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]


def norm(
    s: Array,
    weight: Array | None = None,
    bias: Array | None = None,
    *,
    centred: bool,
    epsilon: float,
    offset: float = 0.0,
    dtype: npt.DTypeLike = np.float64,
) -> Array:
    """The plain formula for the sum s in `dtype`; takes what `zenith_mlir.kernels.cpu.norm.norm_call` takes."""
    with np.errstate(all="ignore"):
        n, _ = _normalised(s.astype(dtype), centred, epsilon)
        out = n if weight is None else n * _factor(weight, offset, dtype)
        return out if bias is None else out + bias.astype(dtype)


def norm_vjp(
    s: Array,
    cotangent: Array,
    weight: Array | None = None,
    sum_cotangent: Array | None = None,
    *,
    centred: bool,
    epsilon: float,
    offset: float = 0.0,
    dtype: npt.DTypeLike = np.float64,
) -> tuple[Array, Array, Array]:
    """The gradients of `norm` by the chain rule: dx, dweight and dbias."""
    with np.errstate(all="ignore"):
        n, scale = _normalised(s.astype(dtype), centred, epsilon)
        dy = cotangent.astype(dtype)
        g = dy if weight is None else dy * _factor(weight, offset, dtype)
        inner = g - n * (g * n).mean(-1, keepdims=True)
        if centred:
            inner = inner - inner.mean(-1, keepdims=True)
        dx = inner * scale
        if sum_cotangent is not None:
            dx = dx + sum_cotangent.astype(dtype)
        rows = tuple(range(s.ndim - 1))
        return dx, (dy * n).sum(rows), dy.sum(rows)


def _normalised(s: Array, centred: bool, epsilon: float) -> tuple[Array, Array]:
    """n, and what s - mean is multiplied by to give it."""
    if centred:
        s = s - s.mean(-1, keepdims=True)
    scale = 1 / np.sqrt(np.square(s).mean(-1, keepdims=True) + s.dtype.type(np.float32(epsilon)))
    return s * scale, scale


def _factor(weight: Array, offset: float, dtype: npt.DTypeLike) -> Array:
    factor: Array = weight.astype(dtype) + np.asarray(np.float32(offset), dtype)
    return factor
