"""Activations by name, for forward and backward passes that are written by hand."""

from __future__ import annotations

from collections.abc import Iterator, MutableMapping
from typing import Any

import jax

from zenith_mlir.memory.manager import Handle, Manager

__all__ = ["ActivationStore"]


class ActivationStore(MutableMapping[str, Any]):
    """A dictionary of arrays, or trees of arrays, in the care of `manager`: what does not fit its budget waits
    elsewhere.

    Reading a name also begins to bring back the `ahead` names that were stored before it, which a backward pass reads
    next. Leaves that are no arrays are kept as they are.

    >>> import jax.numpy as jnp
    >>> layers = [lambda x: 2 * x] * 6
    >>> with Manager("16KiB") as manager:
    ...     store = ActivationStore(manager)
    ...     x = jnp.ones((1024,))
    ...     for i, layer in enumerate(layers):
    ...         store[f"x{i}"] = x
    ...         x = layer(x)
    ...     total = 0.0
    ...     for i in reversed(range(len(layers))):
    ...         total += float(store.pop(f"x{i}")[0])
    >>> total
    63.0
    """

    def __init__(self, manager: Manager, ahead: int = 1):
        self.manager = manager
        self.ahead = ahead
        self._kept: dict[str, Any] = {}

    def put(self, name: str, value: Any) -> None:
        """Keep `value` under `name`, in place of what was there.

        Raises:
            BudgetExceeded: if an array of it does not fit; nothing is kept under `name` then.
        """
        self._kept.pop(name, None)
        self._kept[name] = jax.tree.map(self._take, value)

    def prefetch(self, *names: str) -> None:
        """Begin to bring values back, into room that is free. Raises KeyError for a name that is not there."""
        for name in names:
            for handle in jax.tree.leaves(self._kept[name]):
                if isinstance(handle, Handle) and handle.where in ("host", "disk"):
                    handle.prefetch()

    def __setitem__(self, name: str, value: Any) -> None:
        self.put(name, value)

    def __getitem__(self, name: str) -> Any:
        """The value of `name`, as `Handle.get`."""
        value = jax.tree.map(lambda leaf: leaf.get() if isinstance(leaf, Handle) else leaf, self._kept[name])
        self.prefetch(*self._before(name))
        return value

    def __delitem__(self, name: str) -> None:
        del self._kept[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._kept)

    def __len__(self) -> int:
        return len(self._kept)

    def _before(self, name: str) -> list[str]:
        if not self.ahead:
            return []
        names = list(self._kept)
        at = names.index(name)
        return names[max(0, at - self.ahead) : at][::-1]

    def _take(self, leaf: Any) -> Any:
        return self.manager.put(leaf) if isinstance(leaf, jax.Array) else leaf
