"""Buffers that nobody needs any more, for arrays of the same shape and type."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

__all__ = ["Pool"]

_Key = tuple[tuple[int, ...], Any, jax.sharding.Sharding]


class Pool:
    """Freed arrays by shape, dtype and sharding. A buffer is handed out again through a donating jit, so that the array
    which was freed is deleted for whoever still looks at it.
    """

    def __init__(self) -> None:
        self._free: dict[_Key, list[jax.Array]] = {}

    @property
    def nbytes(self) -> int:
        return sum(array.nbytes for arrays in self._free.values() for array in arrays)

    def put(self, array: jax.Array) -> None:
        self._free.setdefault((array.shape, array.dtype, array.sharding), []).append(array)

    def take(self, shape: tuple[int, ...], dtype: Any, sharding: jax.sharding.Sharding) -> jax.Array | None:
        """An array of zeros in a freed buffer; None if there is none of the kind."""
        arrays = self._free.get((shape, dtype, sharding))
        return _cleared()(arrays.pop()) if arrays else None

    def drop(self) -> None:
        """Give everything back to the device."""
        self._free.clear()


@functools.cache
def _cleared() -> Callable[[jax.Array], jax.Array]:
    # keep_unused: jax.jit would drop the argument, and with it the buffer to write into.
    return jax.jit(jnp.zeros_like, donate_argnums=0, keep_unused=True)
