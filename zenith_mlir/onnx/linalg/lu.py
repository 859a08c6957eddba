"""The LU factorisation with exchanges of rows."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
from jax import lax

from zenith_mlir.onnx.linalg.matrices import Array, column, entry, indices, repeat, row

__all__ = ["getrf"]


def getrf(a: Array) -> tuple[Array, Array, Array]:
    """L and U of P A = L U by outer products with partial pivoting (Golub & Van Loan, 4th ed., algorithm 3.4.1), as
    LAPACK's getrf.

    Args:
      a: (..., m, n).

    Returns: U on and above the diagonal with L, of a diagonal of ones, below it; the rows (..., min(m, n)), int32 from
        1, that row 1, 2, ... were exchanged with; and info (...), int32: 0, or the first k with a pivot of zero.
    """
    *batch, m, n = a.shape
    rows, columns = indices(m)[:, None], indices(n)[None, :]
    numbers = indices(min(m, n))

    def next_pivot(k: Any, state: Any) -> Any:
        a, pivots, info = state
        size = jnp.where(rows >= k, jnp.abs(column(a, k)), jnp.asarray(-1, a.dtype))
        best = lax.argmax(size[..., 0], size.ndim - 2, jnp.int32)[..., None, None]
        this = row(a, k)
        chosen = jnp.sum(jnp.where(rows == best, a, jnp.zeros((), a.dtype)), -2, keepdims=True)
        a = jnp.where(rows == k, chosen, jnp.where(rows == best, this, a))
        pivot = entry(chosen, 0, k)
        singular = pivot == 0
        # Where the pivot is zero so is all below it.
        factors = jnp.where(rows > k, column(a, k) / jnp.where(singular, jnp.ones_like(pivot), pivot), 0)
        factors = factors.astype(a.dtype)
        a = jnp.where((columns == k) & (rows > k), factors, a - factors * jnp.where(columns > k, chosen, 0))
        pivots = jnp.where(numbers == k, best[..., 0] + 1, pivots)
        info = jnp.where((info == 0) & singular[..., 0, 0], jnp.int32(k + 1), info)
        return a, pivots, info

    start = (a, jnp.zeros((*batch, min(m, n)), jnp.int32), jnp.zeros(batch, jnp.int32))
    return repeat(min(m, n), next_pivot, start)
