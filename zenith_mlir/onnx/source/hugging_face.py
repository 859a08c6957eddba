"""Flax models of Hugging Face Transformers: `model(..., params=params)`."""

from __future__ import annotations

from typing import Any

from zenith_mlir.onnx.source.model import Model, is_a, signature_of

__all__ = ["recognise"]


def recognise(fn: Any, params: Any) -> Model | None:
    """A model, with its own `model.params` unless others are given."""
    if not is_a(fn, "transformers", "FlaxPreTrainedModel"):
        return None

    def call(params: Any, *args: Any, **kwargs: Any) -> Any:
        return fn(*args, **kwargs, params=params)

    return Model(call, fn.params if params is None else params, signature_of(fn), type(fn).__name__)
