"""Reading one attribute of an op, with an error that says what is wrong with it."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any, TypeVar

_T = TypeVar("_T")


def field(op: str, attributes: Mapping[str, Any], name: str, kind: type[_T], allowed: Collection[_T] = ()) -> _T:
    """The attribute `name`: a `kind`, and one of `allowed` where that names any.

    Raises: ValueError naming the op, the attribute, what it is and what was expected.
    """
    if name not in attributes:
        raise ValueError(f"{op} has no attribute {name}")
    value = attributes[name]
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        value = float(value)
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        raise ValueError(f"{op}: attribute {name} is {value!r}, expected a {kind.__name__}")
    if allowed and value not in allowed:
        raise ValueError(f"{op}: attribute {name} is {value!r}, expected one of {', '.join(map(str, allowed))}")
    return value
