"""The QR factorisation by Householder's reflections."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp

from zenith_mlir.onnx.linalg.matrices import Array, Index, column, entry, indices, repeat, transposed

__all__ = ["geqrf", "orgqr", "ormqr"]


def geqrf(a: Array) -> tuple[Array, Array]:
    """Q and R of A = Q R (Golub & Van Loan, 4th ed., algorithms 5.1.1 and 5.2.1), as LAPACK's geqrf.

    Args:
      a: (..., m, n).

    Returns: R on and above the diagonal with the vectors v, whose first element is 1, below it; and τ (..., min(m, n)).
        Q = H₁ H₂ ... with H = I - τ v vᵀ.
    """
    *batch, m, n = a.shape
    rows, columns = indices(m)[:, None], indices(n)[None, :]
    numbers = indices(min(m, n))

    def next_column(k: Any, state: Any) -> Any:
        a, taus = state
        given = column(a, k)
        beta, tau, v = _reflection(given, k)
        projected = transposed(v) @ a
        a = a - jnp.where(columns > k, tau * projected, 0) * v
        new = jnp.where(rows == k, beta, jnp.where(rows > k, v, given))
        return jnp.where(columns == k, new, a), jnp.where(numbers == k, tau[..., 0], taus)

    return repeat(min(m, n), next_column, (a, jnp.zeros((*batch, min(m, n)), a.dtype)))


def _reflection(x: Array, k: Index) -> tuple[Array, Array, Array]:
    """What the reflection that clears `x` (..., m, 1) below row `k` makes of element k, its τ and its v.

    Where nothing is below, τ is 0 (LAPACK, larfg).
    """
    rows = indices(x.shape[-2])[:, None]
    below = jnp.where(rows > k, x, 0)
    alpha = entry(x, k, 0)
    used = jnp.where(rows >= k, x, 0)
    largest = jnp.max(jnp.abs(used), -2, keepdims=True)
    none = jnp.max(jnp.abs(below), -2, keepdims=True) == 0
    scale = jnp.where(largest > 0, largest, 1)  # squares of what is scaled neither overflow nor vanish
    norm = scale * jnp.sqrt(jnp.sum(jnp.square(used / scale), -2, keepdims=True))
    beta = jnp.where(none, alpha, jnp.where(alpha >= 0, -norm, norm))
    divisor = jnp.where(none, 1, alpha - beta)
    tau = jnp.where(none, 0, -divisor / jnp.where(none, 1, beta))
    return beta, tau, jnp.where(rows == k, 1, below / divisor)


def orgqr(a: Array, taus: Array) -> Array:
    """The first n columns of Q (Golub & Van Loan, 4th ed., section 5.1.6), as LAPACK's orgqr.

    Args:
      a: (..., m, n), the vectors below the diagonal.
      taus: (..., k).
    """
    *batch, m, n = a.shape
    start = jnp.broadcast_to(jnp.eye(m, n, dtype=a.dtype), (*batch, m, n))
    return _reflected(a, taus, start, transpose=False)


def ormqr(a: Array, taus: Array, c: Array, *, left: bool, transpose: bool) -> Array:
    """Q C, Qᵀ C, C Q or C Qᵀ, as LAPACK's ormqr. `a` (..., m, k) and `taus` (..., k) are those of `geqrf`."""
    if not left:
        return transposed(_reflected(a, taus, transposed(c), transpose=not transpose))
    return _reflected(a, taus, c, transpose=transpose)


def _reflected(a: Array, taus: Array, c: Array, transpose: bool) -> Array:
    """Q C, the last reflection first, or Qᵀ C."""
    count = taus.shape[-1]
    rows = indices(a.shape[-2])[:, None]

    def next_reflection(i: Any, c: Any) -> Any:
        k = i if transpose else count - 1 - i
        v = jnp.where(rows == k, 1, jnp.where(rows > k, column(a, k), 0)).astype(a.dtype)
        tau = entry(taus[..., None, :], 0, k)
        return c - (tau * v) @ (transposed(v) @ c)

    return repeat(count, next_reflection, c)
