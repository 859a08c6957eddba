"""How the results of kernels of rows are judged."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import numpy as np


def judge(got: Any, exact: np.ndarray, naive: np.ndarray, dtype: Any) -> None:
    """`got` has `dtype`, NaN and infinities exactly where the formula in float32 (`naive`) has them, and in each row at
    most twice its error against the formula in float64 (`exact`), plus a few units in the last place of the row's
    largest number.
    """
    assert got.dtype == jnp.dtype(dtype)
    got = np.asarray(got).astype(np.float64)
    with np.errstate(all="ignore"):
        naive = naive.astype(np.float32).astype(jnp.dtype(dtype)).astype(np.float64)
        exact = exact.astype(np.float64)
        np.testing.assert_array_equal(np.isnan(got), np.isnan(naive))
        np.testing.assert_array_equal(got[np.isinf(naive)], naive[np.isinf(naive)])
        finite = np.isfinite(naive) & np.isfinite(exact)
        size = np.where(finite, np.abs(exact), 0).max(-1, keepdims=True, initial=0)
        bound = 2 * np.where(finite, np.abs(naive - exact), 0).max(-1, keepdims=True, initial=0)
        rounding = 0.0 if dtype == "float32" else float(jnp.finfo(dtype).eps) / 2
        error = np.where(finite, np.abs(got - exact), 0)
    excess = error - (bound + 8 * 2.0**-24 * size + rounding * size + 2.0**-26)
    assert excess.max(initial=-1) <= 0, f"error {error.max()}, more than the {bound.max()} of the plain formula"
