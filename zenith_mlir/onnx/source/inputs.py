"""The arrays among the arguments, with names from the function's signature."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np

from zenith_mlir.errors import ZenithError
from zenith_mlir.onnx.source import names
from zenith_mlir.onnx.source.model import Model

__all__ = ["Input", "abstract", "is_array", "of_call"]


@dataclass(frozen=True)
class Input:
    """One array: its name, the number of the argument that it is in, and what stands for it when the model is traced.

    Arguments by name count after those by position.
    """

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
    weak = bool(getattr(value, "weak_type", False))
    return jax.ShapeDtypeStruct(value.shape, value.dtype, weak_type=weak)


def of_call(model: Model, args: Any, kwargs: Any) -> tuple[list[Input], jax.tree_util.PyTreeDef]:
    """The inputs, with the structure of `(args, kwargs)` that they are the leaves of.

    Raises:
        ZenithError: for arguments that the model does not take, or that are no arrays.
    """
    args, kwargs = _arguments(args, kwargs)
    titles = _titles(model, args, kwargs)
    arguments = list(titles)
    leaves, structure = jax.tree_util.tree_flatten_with_path((args, kwargs))
    inputs = []
    for (side, key, *path), value in leaves:
        place = (side.idx, key.key if side.idx else key.idx)
        name = names.legal(".".join(filter(None, (titles[place], names.join(path)))))
        _check(name, value)
        inputs.append(Input(name, arguments.index(place), abstract(value)))
    hints = model.input_names
    found = hints if hints is not None and len(hints) == len(inputs) else [each.name for each in inputs]
    return [
        Input(name, each.argument, each.example)
        for name, each in zip(names.unique(map(names.legal, found)), inputs, strict=True)
    ], structure


def _arguments(args: Any, kwargs: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    if not isinstance(args, tuple | list):
        hint = "give arguments by name as kwargs=" if isinstance(args, Mapping) else "write (x,) for one argument"
        raise ZenithError(f"args is the tuple of the model's arguments, not {type(args).__name__}; {hint}")
    if kwargs is not None and not isinstance(kwargs, Mapping):
        raise ZenithError(f"kwargs is a mapping from names to arguments, not {type(kwargs).__name__}")
    return tuple(args), dict(kwargs or {})


def _titles(model: Model, args: Sequence[Any], kwargs: Mapping[str, Any]) -> dict[tuple[int, Any], str]:
    """Names for the arguments: (0, index) of those by position, (1, name) of those by name."""
    by_position, by_name = [f"arg{i}" for i in range(len(args))], {(1, name): name for name in kwargs}
    if model.signature is not None:
        try:
            model.signature.bind(*args, **kwargs)
        except TypeError as error:
            given = f"{len(args)} arguments" + (f" and {', '.join(kwargs)}" if kwargs else "")
            raise ZenithError(f"{model.title}{model.signature} is not called like this, {given}: {error}") from None
        by_position = _positional(model.signature, len(args))
    return {(0, i): name for i, name in enumerate(by_position)} | by_name


def _positional(signature: inspect.Signature, count: int) -> list[str]:
    result: list[str] = []
    for parameter in signature.parameters.values():
        if parameter.kind is inspect.Parameter.VAR_POSITIONAL:
            result += [f"{parameter.name}_{i}" for i in range(count - len(result))]
        elif parameter.kind in (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD):
            result.append(parameter.name)
    return result[:count]


def _check(name: str, value: Any) -> None:
    if not is_array(value) and not isinstance(value, bool | int | float | complex):
        raise ZenithError(
            f"the argument {name} is {type(value).__module__}.{type(value).__name__}, no array of JAX or NumPy; "
            "convert it, or, if it is no input of the model, bind it: functools.partial(fn, name=value)"
        )
