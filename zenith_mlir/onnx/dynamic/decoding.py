"""From a number in a static module back to what it means."""

from __future__ import annotations

import itertools
from collections.abc import Collection, Mapping
from functools import cached_property

from zenith_mlir.errors import ZenithError
from zenith_mlir.onnx.dynamic.expr import Expr
from zenith_mlir.onnx.dynamic.witness import SMALL

__all__ = ["Decoder"]


class Decoder:
    """`known` says what the sizes of the module mean, `numbers` are its static sizes.

    Passes make new sizes of old ones: products where they merge dimensions, quotients where they split them, sums where
    they join or pad. Products and quotients are factored over the known sizes, sums of two known sizes or with a small
    number are looked up. More than one meaning is an error, as is none.
    """

    def __init__(self, known: Mapping[int, Expr], numbers: Collection[int]):
        self._known = known
        self._numbers = frozenset(abs(number) for number in numbers)
        self._decoded: dict[int, Expr | int] = {}

    def __call__(self, size: int) -> Expr | int:
        """Raises: ZenithError if the number means nothing or more than one thing."""
        if size in self._known:
            return self._known[size]
        if size < 0:
            return -self(-size)
        if size not in self._decoded:
            self._decoded[size] = self._decode(size)
        return self._decoded[size]

    def _decode(self, size: int) -> Expr | int:
        if size < SMALL or size in self._numbers:
            return size
        found = self._products(size) or self._sums(size)
        static = self._is_static(size)
        if len(found) + static == 1:
            return size if static else found.pop()
        meanings = [*map(str, found), *([f"the number {size}"] if static else [])]
        what = f"can be {' or '.join(meanings)}" if meanings else "is no product, quotient or sum of known sizes"
        names = ", ".join(f"{value} for {meaning}" for value, meaning in itertools.islice(self._known.items(), 12))
        raise ZenithError(
            f"what the size {size} of the static module means cannot be told: it {what} (there are {names})"
        )

    def _products(self, size: int, depth: int = 5) -> set[Expr]:
        """size as a product of known sizes and one static number."""
        if size in self._known:
            return {self._known[size]}
        if size < SMALL or size in self._numbers:
            return {Expr.number(size)}
        if depth == 0:
            return set()
        found = set()
        for value, meaning in self._positive:
            if size % value == 0:
                found |= {meaning * rest for rest in self._products(size // value, depth - 1)}
        return found

    @cached_property
    def _positive(self) -> list[tuple[int, Expr]]:
        return [(value, meaning) for value, meaning in self._known.items() if value >= SMALL]

    def _sums(self, size: int) -> set[Expr]:
        found = set()
        for value, meaning in self._positive:
            rest = size - value
            if abs(rest) in self._known:
                found.add(meaning + (self._known[rest] if rest > 0 else -self._known[-rest]))
            elif abs(rest) < SMALL or abs(rest) in self._numbers:
                found.add(meaning + rest)
        return found

    def _is_static(self, size: int) -> bool:
        """Whether it is a product of two static sizes of the module, or of one and a small number."""
        return any(
            size % number == 0 and (size // number < SMALL or size // number in self._numbers)
            for number in self._numbers
            if number > 1
        )
