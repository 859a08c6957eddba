"""Systems with a triangular matrix."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp

from zenith_mlir.onnx.linalg.matrices import Array, entry, in_triangle, indices, repeat, row, transposed

__all__ = ["trsm"]


def trsm(a: Array, b: Array, *, left: bool, lower: bool, transpose: bool, unit: bool) -> Array:
    """X of op(A) X = B, or of X op(A) = B, by substitution, row by row (Golub & Van Loan, 4th ed., section 3.1.2), as
    BLAS's trsm.

    Args:
      a: (..., n, n), of which one triangle is read.
      b: (..., n, m), or (..., m, n) where `a` is on the right.
      left: whether `a` is on the left of X.
      lower: which triangle it is.
      transpose: whether op(A) is its transpose.
      unit: whether its diagonal is ones, and not read.
    """
    if not left:
        return transposed(
            trsm(a, transposed(b), left=True, lower=lower, transpose=not transpose, unit=unit),
        )
    if transpose:
        a, lower = transposed(a), not lower
    n = a.shape[-1]
    others = jnp.where(in_triangle(n, n, lower, strictly=True), a, jnp.zeros((), a.dtype))

    def next_row(i: Any, x: Any) -> Any:
        k = i if lower else n - 1 - i
        rest = row(b, k) - row(others, k) @ x
        return jnp.where(indices(n)[:, None] == k, rest if unit else rest / entry(a, k, k), x)

    return repeat(n, next_row, jnp.zeros_like(b))
