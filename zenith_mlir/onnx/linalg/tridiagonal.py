"""Systems with a tridiagonal matrix."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np

from zenith_mlir.onnx.linalg.lu import getrf
from zenith_mlir.onnx.linalg.matrices import Array
from zenith_mlir.onnx.linalg.triangular import trsm

__all__ = ["gtsv"]


def gtsv(below: Array, diagonal: Array, above: Array, b: Array) -> tuple[Array, Array, Array, Array, Array]:
    """X of A X = B, with results as LAPACK's gtsv: Gaussian elimination of (A | B) with partial pivoting, then back
    substitution (Golub & Van Loan, 4th ed., sections 3.4 and 3.1.2). A is written out: n² elements.

    Args:
      below, diagonal, above: (..., n), row by row; the first of `below` and the last of `above` are not read.
      b: (..., n, m).

    Returns: the diagonals as they came, which nobody reads, X, and info (...), int32: 0, or the first k with a pivot of
        zero.
    """
    n = diagonal.shape[-1]
    a = jnp.zeros((*diagonal.shape, n), diagonal.dtype)
    for offset, values in ((-1, below), (0, diagonal), (1, above)):
        a = jnp.where(np.eye(n, k=offset, dtype=bool), values[..., :, None], a)
    eliminated, _, info = getrf(jnp.concatenate([a, b], -1))
    # Eliminating the columns of A only: n pivots of the n rows, so that what is right of them is L⁻¹ P B.
    x = trsm(eliminated[..., :n], eliminated[..., n:], left=True, lower=False, transpose=False, unit=False)
    return below, diagonal, above, x, info
