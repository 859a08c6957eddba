"""`layer_norm`, the op zenith.layer_norm."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from jax.typing import ArrayLike

from zenith_mlir.dialects.layer_norm import LayerNormSpec
from zenith_mlir.dialects.layer_norm_vjp import LayerNormVjpSpec
from zenith_mlir.ops.norm import define_norm, normalise

layer_norm_p = define_norm(LayerNormSpec, LayerNormVjpSpec)


def layer_norm(
    x: ArrayLike,
    weight: ArrayLike | None = None,
    bias: ArrayLike | None = None,
    *,
    residual: ArrayLike | None = None,
    axis: int | Sequence[int] = -1,
    epsilon: float = 1e-5,
    offset: float = 0.0,
) -> Any:
    r"""Layer normalisation.

    .. math::
      s = x + residual \qquad
      out = \frac{s - \mathrm{mean}(s)}{\sqrt{\mathrm{mean}((s - \mathrm{mean}(s))^2) + \epsilon}} (weight + offset)
      + bias

    Arithmetic is float32 at least, and each result is rounded to the dtype of x once.

    Args:
      x: floating-point array.
      weight: of the shape of the normalised axes, often called scale or gamma; None is 1.
      bias: of the same shape; None is 0.
      residual: added first, of the shape of x.
      axis: the axes of the means: the last one, or several up to the last.
      epsilon: added to the variance.
      offset: added to the weight; 1.0 for weights that are stored as distances from one.

    Returns: out, of the shape and dtype of x; with a residual the pair (out, s).

    Raises:
      TypeError: if an argument is not of floating-point numbers.
      ValueError: if shapes do not fit or the axes are not the last ones.
    """
    return normalise(
        layer_norm_p,
        LayerNormSpec,
        x,
        weight,
        bias,
        residual=residual,
        axis=axis,
        epsilon=epsilon,
        offset=offset,
    )
