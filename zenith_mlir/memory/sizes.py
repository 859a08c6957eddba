"""Sizes as people write them: 2GiB, 512MB, 50%, and as they read them."""

from __future__ import annotations

import math
import operator
import re
from dataclasses import dataclass
from fractions import Fraction
from typing import SupportsIndex

from zenith_mlir.errors import ZenithError

__all__ = ["Budget", "SizeError", "format_bytes", "parse_bytes"]

_UNITS = {"": 1, "b": 1} | {
    f"{letter}{suffix}": base**power
    for power, letter in enumerate("kmgtp", start=1)
    for suffix, base in (("b", 1000), ("ib", 1024))
}
_NUMBER = r"(?:\d[\d_]*(?:\.\d*)?|\.\d+)(?:e\+?\d{1,2})?"
_SIZE = re.compile(rf"({_NUMBER})\s*([a-z]*)", re.IGNORECASE)
_PERCENTAGE = re.compile(rf"({_NUMBER})\s*%")


class SizeError(ZenithError, ValueError):
    """What should be a number of bytes, or a share of some, and is neither."""


def parse_bytes(size: str | float | SupportsIndex) -> int:
    """The number of bytes that `size` says, rounded down: `"2GiB"` (2 · 1024³), `"1.5 MB"` (1.5 · 1000²), `4096`.

    Case and blanks do not matter.

    >>> parse_bytes("2GiB"), parse_bytes("512 kB"), parse_bytes(4096)
    (2147483648, 512000, 4096)

    Raises:
        SizeError: if `size` is negative, has no unit of this table, or is no size at all.
    """
    number = _plain_number(size)
    if number is not None:
        return number
    match = _SIZE.fullmatch(size.strip()) if isinstance(size, str) else None
    if match is None:
        raise SizeError(f"expected a number of bytes such as 2GiB, 512MB or 4096, got {size!r}")
    unit = _UNITS.get(match[2].lower())
    if unit is None:
        raise SizeError(f"{size!r} has no unit of bytes; expected kB, MB, GB (1000s) or KiB, MiB, GiB (1024s)")
    return int(Fraction(match[1]) * unit)


def format_bytes(count: int) -> str:
    """`count` bytes for people, in units of 1024.

    >>> format_bytes(512), format_bytes(2 * 1024**3), format_bytes(-1536)
    ('512 B', '2.0 GiB', '-1.5 KiB')
    """
    if abs(count) < 1024:
        return f"{count} B"
    larger = ("KiB", "MiB", "GiB", "TiB", "PiB")
    power = next((p for p in range(1, len(larger)) if abs(round(count / 1024**p, 1)) < 1024), len(larger))
    return f"{count / 1024**power:.1f} {larger[power - 1]}"


@dataclass(frozen=True)
class Budget:
    """A bound on memory: so many `bytes`, or a `share` from 0 to 1 of a total that is known later. One is None."""

    bytes: int | None = None
    share: Fraction | None = None

    @classmethod
    def parse(cls, text: str | float | SupportsIndex | Budget) -> Budget:
        """The budget that `text` says: a size as in `parse_bytes`, or a percentage.

        >>> Budget.parse("50%").of(4096), Budget.parse("2KiB").of(4096)
        (2048, 2048)

        Raises:
            SizeError: if it is neither, or a percentage above 100.
        """
        if isinstance(text, Budget):
            return text
        if not isinstance(text, str) or "%" not in text:
            return cls(bytes=parse_bytes(text))
        match = _PERCENTAGE.fullmatch(text.strip())
        share = Fraction(match[1]) / 100 if match else None
        if share is None or share > 1:
            raise SizeError(f"expected a percentage from 0% to 100%, got {text!r}")
        return cls(share=share)

    def of(self, total: int) -> int:
        """The budget in bytes where everything takes `total` bytes: an absolute budget is what it is."""
        if self.bytes is not None:
            return self.bytes
        return math.floor(total * (self.share or 0))

    def __str__(self) -> str:
        """The text that `parse` reads back."""
        return f"{self.bytes}" if self.share is None else f"{float(self.share) * 100:.12g}%"


def _plain_number(size: object) -> int | None:
    """The bytes where `size` is a number already."""
    if isinstance(size, bool | str):
        return None
    if isinstance(size, float) and size.is_integer():
        size = int(size)
    try:
        number: int = operator.index(size)  # type: ignore[arg-type]
    except TypeError:
        return None
    if number < 0:
        raise SizeError(f"expected a number of bytes, 0 or more, got {number}")
    return number
