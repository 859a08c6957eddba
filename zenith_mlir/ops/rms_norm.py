"""`rms_norm`, the op zenith.rms_norm."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from jax.typing import ArrayLike

from zenith_mlir.dialects.rms_norm import RmsNormSpec
from zenith_mlir.dialects.rms_norm_vjp import RmsNormVjpSpec
from zenith_mlir.ops.norm import define_norm, normalise

rms_norm_p = define_norm(RmsNormSpec, RmsNormVjpSpec)


def rms_norm(
    x: ArrayLike,
    weight: ArrayLike | None = None,
    bias: ArrayLike | None = None,
    *,
    residual: ArrayLike | None = None,
    axis: int | Sequence[int] = -1,
    epsilon: float = 1e-6,
    offset: float = 0.0,
) -> Any:
    r"""Root-mean-square normalisation.

    .. math::
      s = x + residual \qquad out = \frac{s}{\sqrt{\mathrm{mean}(s^2) + \epsilon}} (weight + offset) + bias

    Arithmetic is float32 at least, and each result is rounded to the dtype of x once.

    Args:
      x: floating-point array.
      weight: of the shape of the normalised axes, often called scale or gamma; None is 1.
      bias: of the same shape; None is 0.
      residual: added first, of the shape of x.
      axis: the axes of the means: the last one, or several up to the last.
      epsilon: added to the mean square.
      offset: added to the weight; 1.0 for weights that are stored as distances from one.

    Returns: out, of the shape and dtype of x; with a residual the pair (out, s).

    Raises:
      TypeError: if an argument is not of floating-point numbers.
      ValueError: if shapes do not fit or the axes are not the last ones.
    """
    return normalise(
        rms_norm_p,
        RmsNormSpec,
        x,
        weight,
        bias,
        residual=residual,
        axis=axis,
        epsilon=epsilon,
        offset=offset,
    )
