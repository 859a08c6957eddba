"""JAX as it is without jax2onnx.

jax2onnx replaces functions of JAX and of its libraries while it traces, and importing its plugins replaces some for
good. Results and exports of others are to come from what users have: `Plain` remembers every function before.
"""

from __future__ import annotations

import sys
import types
from collections.abc import Iterator
from typing import Any

LIBRARIES = ("jax", "flax", "equinox")


class Plain:
    """What the functions and methods of the libraries are now."""

    def __init__(self) -> None:
        self._objects = {(id(owner), name): (owner, name, value) for owner, name, value in _functions()}

    def changed(self) -> list[str]:
        """Names of what is another object now."""
        return [f"{_name(owner)}.{name}" for owner, name, value in self._different()]

    def restore(self) -> None:
        for owner, name, value in list(self._different()):
            setattr(owner, name, value)

    def _different(self) -> Iterator[tuple[Any, str, Any]]:
        for owner, name, value in self._objects.values():
            if vars(owner).get(name) is not value:
                yield owner, name, value


def _functions() -> Iterator[tuple[Any, str, Any]]:
    for module in list(sys.modules.values()):
        if getattr(module, "__name__", "").split(".")[0] in LIBRARIES and isinstance(module, types.ModuleType):
            for name, value in list(vars(module).items()):
                if callable(value):
                    yield module, name, value
                if isinstance(value, type) and value.__module__ == module.__name__:
                    for attribute, method in list(vars(value).items()):
                        if callable(method):
                            yield value, attribute, method


def _name(owner: Any) -> str:
    module = f"{owner.__module__}." if isinstance(owner, type) else ""
    return module + str(owner.__name__)
