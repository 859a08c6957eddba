"""Flax Linen: `module.apply(variables, ...)`."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

from zenith_mlir.errors import ZenithError
from zenith_mlir.onnx.source.model import Model, is_a, refuse_params, signature_of

__all__ = ["recognise"]


def recognise(fn: Any, params: Any) -> Model | None:
    """A module with `params=variables`, `module.apply`, a bound module, or a method of a bound module."""
    module: Any = fn.__self__ if inspect.ismethod(fn) else fn
    if not is_a(module, "flax.linen", "Module"):
        return None
    if params is None and inspect.ismethod(fn) and fn.__name__ == "apply":
        return _apply(module)
    method = fn.__name__ if inspect.ismethod(fn) and fn.__name__ != "apply" else "__call__"
    title = type(module).__name__
    if module.scope is not None:
        refuse_params(params, f"the bound module {title}")
        module, params = module.unbind()
    _check(title, params)

    def call(variables: Any, *args: Any, **kwargs: Any) -> Any:
        return module.apply(variables, *args, **{"method": method, **kwargs})

    signature = signature_of(getattr(module, method))
    return Model(call, params, _with_options(signature), title)


def _apply(module: Any) -> Model:
    """`module.apply` whose variables are an argument as others are, or bound by functools.partial."""
    signature = _with_options(signature_of(type(module).__call__))
    if signature is not None:
        _, *rest = signature.parameters.values()
        first = inspect.Parameter("variables", inspect.Parameter.POSITIONAL_ONLY)
        signature = signature.replace(parameters=[first, *rest])
    return Model(lambda _, *args, **kwargs: module.apply(*args, **kwargs), None, signature, type(module).__name__)


# Of module.apply; they are given by functools.partial.
_OPTIONS = ("rngs", "method", "mutable", "capture_intermediates")


def _with_options(signature: inspect.Signature | None) -> inspect.Signature | None:
    if signature is None:
        return None
    parameters = list(signature.parameters.values())
    rest = [parameters.pop()] if parameters and parameters[-1].kind is inspect.Parameter.VAR_KEYWORD else []
    options = [inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None) for name in _OPTIONS]
    known = [option for option in options if option.name not in signature.parameters]
    return signature.replace(parameters=[*parameters, *known, *rest])


# What variables without parameters can consist of.
_COLLECTIONS = {"batch_stats", "cache", "constants", "intermediates"}


def _check(title: str, params: Any) -> None:
    expected = "the variables that module.init returns are expected, {'params': ...}"
    if params is None:
        raise ZenithError(f"the Linen module {title} has no parameters of its own: {expected}; give them as params=")
    if not isinstance(params, Mapping):
        raise ZenithError(f"params for the Linen module {title}: {expected}, not {type(params).__name__}")
    if params and "params" not in params and not _COLLECTIONS & set(params):
        keys = ", ".join(map(str, params))
        raise ZenithError(
            f"params for the Linen module {title}: {expected}, but its keys are {keys}; write "
            "params={'params': params}"
        )
