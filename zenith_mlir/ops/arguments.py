"""What the ops ask of their arguments, with errors that say what was expected, what came and what to do."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp


def floating(op: str, **named: Any) -> list[jax.Array]:
    """The arguments as arrays.

    Raises: TypeError naming one that is no array of real floating-point numbers.
    """
    arrays = []
    for name, value in named.items():
        array = _array(op, name, value)
        if not jnp.issubdtype(array.dtype, jnp.floating):
            raise TypeError(
                f"zenith.ops.{op}: {name} is {describe(array)}, expected floating-point numbers; "
                f"convert it with {name}.astype(jnp.float32)"
            )
        arrays.append(array)
    return arrays


def present(op: str, **named: Any) -> list[jax.Array]:
    """Those of the arguments that are not None, as `floating` has them."""
    return floating(op, **{name: value for name, value in named.items() if value is not None})


def integers(op: str, name: str, value: Any) -> jax.Array:
    """`value` as an array. Raises: TypeError unless it is of integers."""
    array = _array(op, name, value)
    if not jnp.issubdtype(array.dtype, jnp.integer):
        raise TypeError(f"zenith.ops.{op}: {name} is {describe(array)}, expected integers")
    return array


def booleans(op: str, name: str, value: Any) -> jax.Array:
    """`value` as an array. Raises: TypeError unless it is of booleans."""
    array = _array(op, name, value)
    if array.dtype != bool:
        raise TypeError(
            f"zenith.ops.{op}: {name} is {describe(array)}, expected booleans, True where an element counts; "
            "pass what is added as a bias"
        )
    return array


def check_shape(op: str, name: str, array: Any, expected: Sequence[int], why: str) -> None:
    """Raises: ValueError unless `array` has the shape `expected`; `why` says where that comes from."""
    if tuple(array.shape) != tuple(expected):
        raise ValueError(f"zenith.ops.{op}: {name} has shape {list(array.shape)}, expected {list(expected)}, {why}")


def check_choice(op: str, name: str, value: Any, choices: Sequence[str]) -> None:
    """Raises: ValueError unless `value` is one of `choices`."""
    if value not in choices:
        raise ValueError(f"zenith.ops.{op}: {name} is {value!r}, expected one of {', '.join(map(repr, choices))}")


def check(op: str, holds: bool, message: str) -> None:
    """Raises: ValueError with the op's name and `message`, unless it `holds`."""
    if not holds:
        raise ValueError(f"zenith.ops.{op}: {message}")


def describe(array: Any) -> str:
    """Type and shape: float32[2,3]."""
    return f"{array.dtype.name}[{','.join(map(str, array.shape))}]"


def _array(op: str, name: str, value: Any) -> jax.Array:
    try:
        return jnp.asarray(value)
    except (TypeError, ValueError) as error:
        raise TypeError(f"zenith.ops.{op}: {name} is {type(value).__name__}, expected an array") from error
