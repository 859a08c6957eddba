"""The singular value decomposition."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import numpy as np

from zenith_mlir.onnx.linalg.jacobi import Tournament, in_order
from zenith_mlir.onnx.linalg.matrices import Array, diagonal, transposed
from zenith_mlir.onnx.linalg.qr import geqrf, orgqr

__all__ = ["gesdd"]


def gesdd(a: Array, full: bool) -> tuple[Array, Array, Array, Array]:
    """U, s and Vᵀ of A = U diag(s) Vᵀ by Jacobi's method on one side (Golub & Van Loan, 4th ed., section 8.6.3;
    Hestenes 1958), with results as LAPACK's gesdd.

    Args:
      a: (..., m, n).
      full: whether U is (..., m, m) and Vᵀ (..., n, n), or both have only the min(m, n) vectors of singular values.

    Returns: U, s (..., min(m, n)) descending, Vᵀ, vectors up to their signs; and info (...), int32: 0, or -4 where `a`
        is not finite.
    """
    if a.shape[-2] < a.shape[-1]:
        v, s, ut, info = gesdd(transposed(a), full)
        return transposed(ut), s, transposed(v), info
    *batch, m, n = a.shape
    scale = jnp.max(jnp.abs(a), (-1, -2), keepdims=True)
    scale = jnp.where(scale > 0, scale, 1)
    size = n + n % 2
    padding = [(0, 0)] * (len(batch) + 1) + [(0, size - n)]
    tournament = Tournament(size)
    elsewhere = ~np.eye(size, dtype=bool)
    tolerance = size * float(jnp.finfo(a.dtype).eps)

    def round_(state: Any) -> Any:
        columns, v = state
        products = jnp.sum(columns * jnp.take(columns, tournament.other, -1, mode="clip"), -2)
        rotation = tournament.rotation(jnp.sum(jnp.square(columns), -2), products)
        return columns @ rotation, v @ rotation

    def unfinished(state: Any) -> Any:
        columns, _ = state
        gram = transposed(columns) @ columns
        norms = jnp.sqrt(diagonal(gram))
        # Columns that are nothing beside the largest one are orthogonal to it by rounding only.
        norms = jnp.maximum(norms, tolerance * jnp.max(norms, -1, keepdims=True))
        allowed = tolerance * norms[..., :, None] * norms[..., None, :]
        return jnp.any(jnp.where(elsewhere, jnp.abs(gram), 0) > allowed)

    start = jnp.broadcast_to(jnp.eye(size, dtype=a.dtype), (*batch, size, size))
    columns, v = tournament.play(round_, unfinished, (jnp.pad(a / scale, padding), start))
    columns, v = columns[..., :n], v[..., :n, :n]
    negated, columns, v = in_order(-jnp.sqrt(jnp.sum(jnp.square(columns), -2)), columns, v)
    s = -negated * scale[..., 0]
    info = jnp.where(jnp.all(jnp.isfinite(s), -1), jnp.int32(0), jnp.int32(-4))
    return _orthonormal(columns, m if full else n), s, transposed(v), info


def _orthonormal(columns: Array, count: int) -> Array:
    """`columns` (..., m, n), orthogonal already, with length 1, and more of them up to `count`; those of length 0
    are replaced by ones that fit.
    """
    *batch, _, n = columns.shape
    packed, taus = geqrf(columns)
    signs = jnp.where(diagonal(packed) < 0, -1, 1).astype(columns.dtype)
    padding = [(0, 0)] * len(batch)
    q = orgqr(jnp.pad(packed, [*padding, (0, 0), (0, count - n)]), taus)
    return q * jnp.pad(signs, [*padding, (0, count - n)], constant_values=1)[..., None, :]
