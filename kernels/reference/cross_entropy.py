"""The mathematics of cross-entropy in numpy float64, the judge of its kernels."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from zenith_mlir.kernels.cpu.cross_entropy import Outside

Array = npt.NDArray[Any]


class Rows(NamedTuple):
    """Of each row of logits: lse, the probabilities, the target and which labels name a column."""

    lse: Array
    probabilities: Array
    target: Array
    known: Array


def cross_entropy(
    logits: Array,
    labels: Array,
    *,
    smoothing: float = 0.0,
    z_loss: float = 0.0,
    outside: Outside = Outside.FILL,
    dtype: npt.DTypeLike = np.float64,
) -> Array:
    """The plain formula in `dtype`; takes what `zenith_mlir.kernels.cpu.cross_entropy.cross_entropy_call` takes."""
    with np.errstate(all="ignore"):
        x = logits.astype(dtype)
        rows = _rows(x, labels, smoothing, outside)
        terms = rows.target * (rows.lse[..., None] - x)
        loss = np.where(rows.target == 0, 0, terms).sum(-1)
        if outside == Outside.DROP:
            loss = loss + np.where(rows.known, 0, (1 - np.asarray(np.float32(smoothing), dtype)) * rows.lse)
        if z_loss:
            loss = loss + np.asarray(np.float32(z_loss), dtype) * rows.lse**2
        return np.where(rows.known, loss, np.nan) if outside == Outside.FILL else loss


def cross_entropy_vjp(
    logits: Array,
    labels: Array,
    cotangent: Array,
    lse_cotangent: Array | None = None,
    *,
    smoothing: float = 0.0,
    z_loss: float = 0.0,
    outside: Outside = Outside.FILL,
    dtype: npt.DTypeLike = np.float64,
) -> Array:
    """The gradient with respect to the logits."""
    with np.errstate(all="ignore"):
        x, g = logits.astype(dtype), cotangent.astype(dtype)
        rows = _rows(x, labels, smoothing, outside)
        of_lse = g * (rows.target.sum(-1) if outside == Outside.ZERO else 1)
        if z_loss:
            of_lse = of_lse + g * 2 * np.asarray(np.float32(z_loss), dtype) * rows.lse
        if lse_cotangent is not None:
            of_lse = of_lse + lse_cotangent.astype(dtype)
        dlogits: Array = of_lse[..., None] * rows.probabilities - g[..., None] * rows.target
        return dlogits


def _rows(x: Array, labels: Array, smoothing: float, outside: Outside) -> Rows:
    cols = x.shape[-1]
    column = np.where((labels < 0) & (outside == Outside.FILL), labels + cols, labels)
    known = (column >= 0) & (column < cols)
    share = np.asarray(np.float32(smoothing), x.dtype)
    target = (1 - share) * (column[..., None] == np.arange(cols)) + share / cols
    maximum = x.max(-1, keepdims=True)
    finite = np.where(np.isfinite(maximum), maximum, 0)
    exponentials = np.exp(x - finite)
    total = exponentials.sum(-1, keepdims=True)
    lse = (finite + np.log(total))[..., 0]
    return Rows(lse, exponentials / total, target.astype(x.dtype), known)
