"""Columns, rows and loops of matrices (..., m, n) in programs that become ONNX: few operations, no gathers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

__all__ = ["Array", "Index", "column", "diagonal", "entry", "in_triangle", "indices", "repeat", "row", "transposed"]

Array = jax.Array
Index = Any  # an int, or the counter of a loop
State = TypeVar("State")

# A loop of so few turns is written out: its indices are then known.
_UNROLLED = 3


def repeat(turns: int, body: Callable[[Index, State], State], state: State) -> State:
    """`body(k, state)` for k = 0, ..., turns - 1."""
    if turns > _UNROLLED:
        found: State = lax.fori_loop(jnp.int32(0), jnp.int32(turns), body, state)
        return found
    for k in range(turns):
        state = body(k, state)
    return state


def indices(size: int) -> np.ndarray[Any, Any]:
    return np.arange(size, dtype=np.int32)


def in_triangle(m: int, n: int, lower: bool, strictly: bool = False) -> np.ndarray[Any, Any]:
    """Where (m, n) matrices have their lower or upper triangle."""
    below, along = indices(m)[:, None], indices(n)[None, :]
    if not lower:
        below, along = along, below
    return below > along if strictly else below >= along


def transposed(a: Array) -> Array:
    return jnp.swapaxes(a, -1, -2)


def row(a: Array, k: Index) -> Array:
    """(..., 1, n)."""
    return _part(a, k, 0, 1, a.shape[-1])


def column(a: Array, k: Index) -> Array:
    """(..., m, 1)."""
    return _part(a, 0, k, a.shape[-2], 1)


def entry(a: Array, i: Index, j: Index) -> Array:
    """(..., 1, 1)."""
    return _part(a, i, j, 1, 1)


def _part(a: Array, i: Index, j: Index, m: int, n: int) -> Array:
    if isinstance(i, int) and isinstance(j, int):
        return a[..., i : i + m, j : j + n]
    zero = jnp.int32(0)
    starts = [zero] * (a.ndim - 2) + [jnp.int32(i), jnp.int32(j)]
    return lax.dynamic_slice(a, starts, (*a.shape[:-2], m, n), allow_negative_indices=False)


def diagonal(a: Array) -> Array:
    """(..., min(m, n)) of (..., m, n)."""
    least = min(a.shape[-2:])
    square = a[..., :least, :least]
    return jnp.sum(jnp.where(np.eye(least, dtype=bool), square, jnp.zeros((), a.dtype)), -1)
