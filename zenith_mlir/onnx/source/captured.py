"""Names for arrays that a function closes over, from where they are found: `decoder.layers.0.weight`."""

from __future__ import annotations

import contextlib
import functools
import inspect
import types
from collections import deque
from collections.abc import Callable, Collection, Hashable, Iterator, Mapping
from typing import Any

import jax
import numpy as np

from zenith_mlir.ir.lifted import identity
from zenith_mlir.onnx.source import names

__all__ = ["find"]

# Objects looked at; models have fewer, and what else a function refers to may be anything.
LIMIT = 100_000


def find(roots: Mapping[str, Any], wanted: Collection[Hashable]) -> dict[Hashable, str]:
    """The shortest name of each array in `wanted`, by its `identity`; those that are not found are not in it."""
    found: dict[Hashable, str] = {}
    seen: set[int] = set()
    queue = deque((name, value) for name, value in roots.items())
    while queue and len(found) < len(wanted) and len(seen) < LIMIT:
        name, value = queue.popleft()
        if id(value) in seen:
            continue
        seen.add(id(value))
        if isinstance(value, jax.Array | np.ndarray):
            key = identity(value)
            if key in wanted:
                found.setdefault(key, _plain(name))
            continue
        with contextlib.suppress(Exception):  # a stranger that does not like to be looked at; names are not worth it
            queue.extend([(_join(name, key), item) for key, item in _parts(value)])
    return found


def _join(name: str, key: str) -> str:
    """Private attributes are how an object keeps what its path names already."""
    return name if key.startswith("_") else f"{name}.{key}".strip(".")


def _plain(name: str) -> str:
    """Without what people call all of their parameters."""
    parts = name.split(".")
    while len(parts) > 1 and parts[0] in ("params", "variables", "self"):
        parts = parts[1:]
    return names.legal(".".join(parts))


def _parts(value: Any) -> Iterator[tuple[str, Any]]:
    """What an object refers to, with what to add to its name."""
    if isinstance(value, str | bytes | int | float | complex | type | types.ModuleType | None):
        return
    for kind, parts in _KINDS:
        if isinstance(value, kind):
            yield from parts(value)
            return
    yield from dict(getattr(value, "__dict__", {})).items()
    called = inspect.getattr_static(type(value), "__call__", None)
    if isinstance(called, types.FunctionType):
        yield "", called
    for base in type(value).__mro__:
        slots = base.__dict__.get("__slots__", ())
        for slot in (slots,) if isinstance(slots, str) else slots:
            if hasattr(value, slot) and not slot.startswith("__"):
                yield slot, getattr(value, slot)


def _function(function: types.FunctionType) -> Iterator[tuple[str, Any]]:
    """The variables that a function closes over or reads, under their own names."""
    # First what decorators and jax.vmap wrap, which has a better name than their variable for it.
    yield from vars(function).items()
    with contextlib.suppress(ValueError):  # a variable that has no value yet
        closed = inspect.getclosurevars(function)
        yield from (*closed.nonlocals.items(), *closed.globals.items())


def _partial(bound: functools.partial[Any]) -> Iterator[tuple[str, Any]]:
    yield "", bound.func
    yield from _items(bound.args)
    yield from bound.keywords.items()


def _items(items: Any) -> Iterator[tuple[str, Any]]:
    return ((str(i), item) for i, item in enumerate(items))


_KINDS: tuple[tuple[Any, Callable[[Any], Iterator[tuple[str, Any]]]], ...] = (
    (types.FunctionType, _function),
    (types.MethodType, lambda method: iter([("", method.__self__), ("", method.__func__)])),
    (functools.partial, _partial),
    (Mapping, lambda mapping: ((str(key), item) for key, item in list(mapping.items()))),
    (list | tuple, _items),
)
