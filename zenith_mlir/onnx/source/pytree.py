"""Callables that are pytrees of their weights: Equinox modules, jax.tree_util.Partial, dataclasses of flax.struct."""

from __future__ import annotations

from typing import Any

import jax

from zenith_mlir.onnx.source.model import Model, refuse_params, signature_of

__all__ = ["recognise"]


def recognise(fn: Any, params: Any) -> Model | None:
    """Arrays are weights; everything else in the pytree stays as it is, as `equinox.filter_jit` has it."""
    if not callable(fn) or jax.tree_util.all_leaves([fn]):
        return None
    title = type(fn).__name__
    refuse_params(params, f"the module {title}")
    return Model(lambda fn, *args, **kwargs: fn(*args, **kwargs), fn, signature_of(fn), title)
