"""The mathematics of the rotary kernel in numpy, the judge of its numerics."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from zenith_mlir.kernels.reference.attention import strided

Array = npt.NDArray[Any]


def rotary(
    x: Array,
    cos: Array,
    sin: Array,
    *,
    dims: Sequence[int],
    rotated: int,
    x_strides: Sequence[int],
    cos_strides: Sequence[int],
    sin_strides: Sequence[int],
    interleaved: bool = False,
    transposed: bool = False,
    dtype: npt.DTypeLike = np.float64,
) -> Array:
    """The plain formula: takes what `zenith_mlir.kernels.cpu.rotary.rotary_call` takes, but computes in `dtype`."""
    half, columns = rotated // 2, cos.shape[-1]
    wide = strided(x, (*dims, x.shape[-1]), (*x_strides, 1)).astype(dtype)
    c = strided(cos, (*dims, columns), (*cos_strides, 1)).astype(dtype)
    s = strided(sin, (*dims, columns), (*sin_strides, 1)).astype(dtype)
    first = np.arange(half) * 2 if interleaved else np.arange(half)
    second = first + (1 if interleaved else half)
    ca, cb, sa, sb = (c, c, s, s) if columns == half else (c[..., first], c[..., second], s[..., first], s[..., second])
    if transposed:
        sa, sb = -sb, -sa
    a, b = wide[..., first], wide[..., second]
    result = wide.copy()
    with np.errstate(all="ignore"):
        result[..., first] = a * ca - b * sa
        result[..., second] = b * cb + a * sb
    out = np.zeros(x.shape, dtype)
    bytes_ = [stride * out.itemsize for stride in (*x_strides, 1)]
    np.lib.stride_tricks.as_strided(out.reshape(-1), result.shape, bytes_)[...] = result
    return out
