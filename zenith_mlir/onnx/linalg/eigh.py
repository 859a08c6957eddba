"""Eigenvalues and eigenvectors of symmetric matrices."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import numpy as np

from zenith_mlir.onnx.linalg.jacobi import Tournament, in_order
from zenith_mlir.onnx.linalg.matrices import Array, diagonal, in_triangle, transposed

__all__ = ["syevd"]


def syevd(a: Array, lower: bool) -> tuple[Array, Array, Array]:
    """V and w of A V = V diag(w) by Jacobi's method (Golub & Van Loan, 4th ed., section 8.5), with results as LAPACK's
    syevd.

    Args:
      a: (..., n, n), of which one triangle is read.
      lower: which one.

    Returns: V (..., n, n), eigenvectors as columns, each up to its sign; w (..., n), ascending; and info (...), int32:
        0, or 1 where it is not known, as with NaN in `a`.
    """
    *batch, n, _ = a.shape
    full = jnp.where(in_triangle(n, n, lower), a, transposed(a))
    scale = jnp.max(jnp.abs(full), (-1, -2), keepdims=True)
    scale = jnp.where(scale > 0, scale, 1)
    size = n + n % 2
    padding = [(0, 0)] * len(batch) + [(0, size - n)] * 2
    tournament = Tournament(size)
    elsewhere = ~np.eye(size, dtype=bool)
    meetings = np.eye(size, dtype=bool)[tournament.other]
    tolerance = size * float(jnp.finfo(a.dtype).eps)

    def round_(state: Any) -> Any:
        a, vectors = state
        products = jnp.sum(jnp.where(meetings, a, 0), -1)
        rotation = tournament.rotation(diagonal(a), products)
        a = transposed(rotation) @ (a @ rotation)
        # Both of a pair have to see the same product, or they turn by different angles.
        return (a + transposed(a)) / 2, vectors @ rotation

    def unfinished(state: Any) -> Any:
        # The largest element was 1.
        return jnp.any(jnp.abs(jnp.where(elsewhere, state[0], 0)) > tolerance)

    start = jnp.broadcast_to(jnp.eye(size, dtype=a.dtype), (*batch, size, size))
    a, vectors = tournament.play(round_, unfinished, (jnp.pad(full / scale, padding), start))
    values = diagonal(a)[..., :n] * scale[..., 0]
    values, vectors = in_order(values, vectors[..., :n, :n])
    info = jnp.where(jnp.all(jnp.isfinite(values), -1), jnp.int32(0), jnp.int32(1))
    return vectors, values, info
