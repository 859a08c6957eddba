"""The arrays among the arguments, with names from the function's signature."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import jax
import numpy as np

from zenith_mlir.errors import ZenithError
from zenith_mlir.onnx.source import names
from zenith_mlir.onnx.source.model import Model

__all__ = ["Call", "Input", "abstract", "is_array", "of_call"]


@dataclass(frozen=True)
class Input:
    """One array: its name, the number of the argument that it is in, and what stands for it in tracing."""

    name: str
    argument: int
    example: Any

    @property
    def shape(self) -> tuple[Any, ...]:
        return tuple(np.shape(self.example))


def is_array(value: Any) -> bool:
    """Whether JAX takes it for an array, or for the shape of one. Numbers are arrays of no dimension."""
    return isinstance(value, jax.Array | np.ndarray | np.generic | jax.ShapeDtypeStruct) or hasattr(
        value, "__jax_array__"
    )


def abstract(value: Any) -> Any:
    """The shape of an array, without placement, so that none gets into the module. Numbers are what they are."""
    if not is_array(value):
        return value
    if hasattr(value, "__jax_array__"):
        value = value.__jax_array__()
    is_key = jax.dtypes.issubdtype(value.dtype, jax.dtypes.extended)
    dtype = value.dtype if is_key else jax.dtypes.canonicalize_dtype(value.dtype)
    return jax.ShapeDtypeStruct(value.shape, dtype, weak_type=bool(getattr(value, "weak_type", False)))


@dataclass(frozen=True)
class Call:
    """The arrays that a model is called with. Arguments by name come behind those by position."""

    inputs: list[Input]
    structure: jax.tree_util.PyTreeDef
    by_position: int
    by_name: tuple[str, ...]

    @property
    def arguments(self) -> int:
        return self.by_position + len(self.by_name)

    def put_back(self, arrays: Sequence[Any]) -> tuple[list[Any], dict[str, Any]]:
        """The arguments, with these in the place of the arrays."""
        arguments = jax.tree.unflatten(self.structure, arrays)
        return arguments[: self.by_position], dict(zip(self.by_name, arguments[self.by_position :], strict=True))


def of_call(model: Model, args: Any, kwargs: Any) -> Call:
    """The arrays among these arguments.

    Raises:
        ZenithError: for arguments that the model does not take, or that are no arrays.
    """
    args, kwargs = _arguments(args, kwargs)
    titles = [*_positional(model, args, kwargs), *kwargs]
    leaves, structure = jax.tree_util.tree_flatten_with_path([*args, *kwargs.values()])
    inputs = []
    for (argument, *path), value in leaves:
        name = names.legal(".".join(filter(None, (titles[argument.idx], names.join(path)))))
        _check(name, value)
        inputs.append(Input(name, argument.idx, abstract(value)))
    hints = model.input_names
    found = hints if hints is not None and len(hints) == len(inputs) else [each.name for each in inputs]
    unique = names.unique(map(names.legal, found))
    inputs = [replace(each, name=name) for name, each in zip(unique, inputs, strict=True)]
    return Call(inputs, structure, len(args), tuple(kwargs))


def _arguments(args: Any, kwargs: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    if not isinstance(args, tuple | list):
        hint = "give arguments by name as kwargs=" if isinstance(args, Mapping) else "write (x,) for one argument"
        raise ZenithError(f"args is the tuple of the model's arguments, not {type(args).__name__}; {hint}")
    if kwargs is not None and not isinstance(kwargs, Mapping):
        raise ZenithError(f"kwargs is a mapping from names to arguments, not {type(kwargs).__name__}")
    return tuple(args), dict(kwargs or {})


def _positional(model: Model, args: Sequence[Any], kwargs: Mapping[str, Any]) -> list[str]:
    """Names for the arguments by position."""
    if model.signature is None:
        return [f"arg{i}" for i in range(len(args))]
    try:
        model.signature.bind(*args, **kwargs)
    except TypeError as error:
        given = f"{len(args)} by position" + (f" and {', '.join(kwargs)} by name" if kwargs else "")
        raise ZenithError(f"{model.prototype} does not take these arguments, {given}: {error}") from None
    result: list[str] = []
    for parameter in model.signature.parameters.values():
        if parameter.kind is inspect.Parameter.VAR_POSITIONAL:
            result += [f"{parameter.name}_{i}" for i in range(len(args) - len(result))]
        elif parameter.kind in (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD):
            result.append(parameter.name)
    return result[: len(args)]


def _check(name: str, value: Any) -> None:
    if not is_array(value) and not isinstance(value, bool | int | float | complex):
        raise ZenithError(
            f"the argument {name} is {type(value).__module__}.{type(value).__name__}, no array of JAX or NumPy; "
            "convert it, or, if it is no input of the model, bind it: functools.partial(fn, name=value)"
        )
