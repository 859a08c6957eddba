"""Keras 3 on JAX: `model.stateless_call(trainable, non_trainable, ...)`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from zenith_mlir.errors import ZenithError
from zenith_mlir.onnx.source import names
from zenith_mlir.onnx.source.model import Model, is_a, refuse_params, signature_of

__all__ = ["recognise"]


def recognise(fn: Any, params: Any) -> Model | None:
    """A built model or layer. A functional model of several inputs also takes them one by one."""
    if not is_a(fn, "keras", "Layer"):
        return None
    import keras

    title = type(fn).__name__
    if keras.backend.backend() != "jax":
        raise ZenithError(
            f"the Keras model {title} runs on {keras.backend.backend()}; set KERAS_BACKEND=jax before keras is imported"
        )
    if not fn.built:
        raise ZenithError(f"the Keras model {title} is not built, so it has no weights; call it once, or model.build")
    refuse_params(params, f"the Keras model {title}")
    trainable, others = list(fn.trainable_variables), list(fn.non_trainable_variables)
    inputs = [tensor.name for tensor in getattr(fn, "inputs", None) or ()]

    def call(values: Sequence[Any], *args: Any, **kwargs: Any) -> Any:
        if len(inputs) > 1 and len(args) == len(inputs):
            args = (list(args),)
        result, _ = fn.stateless_call(values[: len(trainable)], values[len(trainable) :], *args, **kwargs)
        return result

    paths = [names.legal(variable.path) for variable in (*trainable, *others)]
    return Model(
        call,
        [variable.value for variable in (*trainable, *others)],
        signature_of(fn.call) if len(inputs) < 2 else None,
        title,
        parameter_name=lambda path: paths[path[0].idx],
        random=frozenset(path for path in paths if path.endswith("seed_generator_state")),
        # Keras makes names for inputs that nobody named.
        input_names=inputs if inputs and not any(name.startswith("keras_tensor") for name in inputs) else None,
        output_names=getattr(fn, "output_names", None),
    )
