"""How to call what the user has, and where its weights are."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from zenith_mlir.errors import ZenithError
from zenith_mlir.onnx.source import names

__all__ = ["Model", "is_a", "refuse_params", "signature_of", "without_first"]


@dataclass(frozen=True)
class Model:
    """`call(params, *args, **kwargs)` computes what the model does; the arrays in the pytree `params` are weights.

    `signature` is that of the arguments behind `params`, for names. `parameter_name` makes a name of a path in
    `params`. `random` are the names of weights that are the state of random number generators; into `written` a call
    puts the names of those that it gave another value, which is lost. `input_names` and
    `output_names` are those that the library has; `captures` are the objects in which arrays that `call` closes over
    can be found.
    """

    call: Callable[..., Any]
    params: Any
    signature: inspect.Signature | None
    title: str
    parameter_name: Callable[[Sequence[Any]], str] = names.of_parameters
    random: frozenset[str] = frozenset()
    written: set[str] = field(default_factory=set)
    input_names: Sequence[str] | None = None
    output_names: Sequence[str] | None = None
    captures: Mapping[str, Any] = field(default_factory=dict)

    @property
    def prototype(self) -> str:
        """How it is called, for messages: `add(x, y=1)`."""
        if self.signature is None:
            return f"{self.title}(...)"
        nothing = inspect.Parameter.empty
        plain = [parameter.replace(annotation=nothing) for parameter in self.signature.parameters.values()]
        return f"{self.title}{inspect.Signature(plain)}"


def is_a(value: Any, library: str, name: str) -> bool:
    """Whether `value` is of a class of this name that the library defines, which need not be imported to know."""
    return any(
        base.__name__ == name and f"{base.__module__}.".startswith(f"{library}.") for base in type(value).__mro__
    )


def signature_of(function: Callable[..., Any]) -> inspect.Signature | None:
    """The signature, None for what has none, as some built-in functions."""
    try:
        return inspect.signature(function)
    except (TypeError, ValueError):
        return None


def without_first(signature: inspect.Signature | None, count: int = 1) -> inspect.Signature | None:
    """The signature once the first parameters are bound."""
    if signature is None:
        return None
    parameters = list(signature.parameters.values())
    positional = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    for _ in range(count):
        if parameters and parameters[0].kind in positional:
            del parameters[0]
    return signature.replace(parameters=parameters)


def refuse_params(params: Any, what: str) -> None:
    """For models that hold their weights."""
    if params is not None:
        raise ZenithError(f"{what} holds its parameters, and params was given as well; leave params out")
