"""Cholesky's factorisation of positive definite matrices."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp

from zenith_mlir.onnx.linalg.matrices import (
    Array,
    column,
    diagonal,
    entry,
    in_triangle,
    indices,
    repeat,
    row,
    transposed,
)

__all__ = ["potrf"]


def potrf(a: Array, lower: bool) -> tuple[Array, Array]:
    """L of A = L Lᵀ, column by column (Golub & Van Loan, Matrix Computations, 4th ed., section 4.2.5), as LAPACK's
    potrf.

    Args:
      a: (..., n, n), of which one triangle is read; the other is returned as it is.
      lower: whether L is asked for, of the lower triangle, or Lᵀ, of the upper one.

    Returns: the factor, and info (...), int32: 0, or k where the leading minor of order k is not positive. There the
        columns from k on are NaN.
    """
    n = a.shape[-1]
    given = a if lower else transposed(a)
    rows, columns = indices(n)[:, None], indices(n)[None, :]

    def next_column(k: Any, factor: Any) -> Any:
        rest = column(given, k) - factor @ transposed(row(factor, k))
        scaled = rest / jnp.sqrt(entry(rest, k, 0))
        return jnp.where((columns == k) & (rows >= k), scaled, factor)

    factor = repeat(n, next_column, jnp.zeros_like(given))
    good = jnp.sum(diagonal(factor) > 0, -1, dtype=jnp.int32)
    info = jnp.where(good == n, jnp.int32(0), good + 1)
    factor = jnp.where(in_triangle(n, n, lower=True), factor, given)
    return factor if lower else transposed(factor), info
