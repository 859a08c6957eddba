"""The wire format of protocol buffers: what XLA serializes, field by field, without its message classes.

https://protobuf.dev/programming-guides/encoding
"""

from __future__ import annotations

from collections.abc import Iterator

__all__ = ["WireError", "fields", "integers"]

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5


class WireError(ValueError):
    """Bytes that are no message."""


def fields(message: bytes | memoryview) -> Iterator[tuple[int, int | memoryview]]:
    """The number and value of each field, in the order written: integers, or the bytes of anything longer.

    Raises:
        WireError: if the message ends within a field, or has a wire type that nobody writes.
    """
    view = memoryview(message)
    at, end = 0, len(view)
    while at < end:
        tag, at = _varint(view, at)
        number, kind = tag >> 3, tag & 7
        if kind == _VARINT:
            value, at = _varint(view, at)
            yield number, value
            continue
        if kind == _BYTES:
            size, at = _varint(view, at)
        elif kind in (_FIXED64, _FIXED32):
            size = 8 if kind == _FIXED64 else 4
        else:
            raise WireError(f"field {number} has wire type {kind}")
        if at + size > end:
            raise WireError(f"field {number} is {size} bytes long, and {end - at} are left")
        yield number, view[at : at + size]
        at += size


def integers(value: int | memoryview) -> list[int]:
    """A repeated integer field: writers pack them into one or write a field for each."""
    if isinstance(value, int):
        return [value]
    found = []
    at = 0
    while at < len(value):
        number, at = _varint(value, at)
        found.append(number)
    return found


def _varint(view: memoryview, at: int) -> tuple[int, int]:
    """The number at `at`, seven bits a byte, and where it ends. Negative ones arrive as 64 bits, unsigned."""
    result = shift = 0
    try:
        while view[at] & 0x80:
            result |= (view[at] & 0x7F) << shift
            shift += 7
            at += 1
        return result | view[at] << shift, at + 1
    except IndexError:
        raise WireError("the message ends within a number") from None
