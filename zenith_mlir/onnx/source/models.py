"""Recognising what the user has."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from zenith_mlir.errors import ZenithError
from zenith_mlir.onnx.source import haiku, hugging_face, keras, linen, nnx, pytree
from zenith_mlir.onnx.source.model import Model, signature_of, without_first

__all__ = ["recognise"]

# A pytree last: models of some libraries are pytrees too.
_LIBRARIES: tuple[Callable[[Any, Any], Model | None], ...] = (
    linen.recognise,
    nnx.recognise,
    haiku.recognise,
    keras.recognise,
    hugging_face.recognise,
    pytree.recognise,
)


def recognise(fn: Any, params: Any = None) -> Model:
    """How to call `fn`: a model of a library known here, any callable pytree, or a function.

    Of `functools.partial` of one of these, what is bound is part of the model: arrays are weights, the rest is static.

    Raises:
        ZenithError: for what cannot be called, or where weights are missing or given twice.
    """
    if type(fn) is functools.partial:
        return _bind(recognise(fn.func, params), fn)
    for library in _LIBRARIES:
        model = library(fn, params)
        if model is not None:
            return replace(model, captures={"": fn})
    if not callable(fn):
        raise ZenithError(
            f"a function or a model that can be called is expected, not {_describe(fn)}; a model whose forward is a "
            "method is given as that method"
        )
    return _function(fn, params)


def _function(fn: Callable[..., Any], params: Any) -> Model:
    signature, title, captures = signature_of(fn), getattr(fn, "__name__", type(fn).__name__), {"": fn}
    if params is None:
        return Model(lambda _, *args, **kwargs: fn(*args, **kwargs), None, signature, title, captures=captures)
    return Model(fn, params, without_first(signature), title, captures=captures)


def _bind(model: Model, bound: functools.partial[Any]) -> Model:
    def call(params: Any, *args: Any, **kwargs: Any) -> Any:
        return model.call(params, *bound.args, *args, **{**bound.keywords, **kwargs})

    if model.signature is None:
        return replace(model, call=call, captures={**model.captures, **bound.keywords})
    try:
        known = model.signature.bind_partial(*bound.args, **bound.keywords).arguments
    except TypeError as error:
        message = f"functools.partial binds what {model.prototype} does not take: {error}"
        raise ZenithError(message) from None
    # inspect knows what is left of a signature when some of it is bound.
    stand_in = _stand_in(model.signature)
    signature = inspect.signature(functools.partial(stand_in, *bound.args, **bound.keywords))
    return replace(model, call=call, signature=signature, captures={**model.captures, **known})


def _stand_in(signature: inspect.Signature) -> Callable[..., Any]:
    def function(*args: Any, **kwargs: Any) -> None: ...

    vars(function)["__signature__"] = signature
    return function


def _describe(value: Any) -> str:
    text = repr(value)
    return f"{type(value).__name__} {text if len(text) < 60 else text[:57] + '...'}"
