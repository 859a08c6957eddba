"""Sums that gradients of the ops are made of."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp


def over_rows(gradient: Any, like: Any) -> Any:
    """The sum over all axes that `like`, whose axes are the last of `gradient`, lacks; in float32 at least, rounded
    once to the dtype of `like`.
    """
    axes = tuple(range(gradient.ndim - like.ndim))
    return gradient.sum(axes, dtype=jnp.promote_types(gradient.dtype, jnp.float32)).astype(like.dtype)
