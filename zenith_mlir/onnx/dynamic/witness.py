"""Witnesses: numbers that stand for symbolic sizes in a static module, and what such numbers mean.

Every symbol gets a prime, and so does every `min`, `max` and `mod`, which would otherwise be one of its operands, or
too small to be told from another number. Sizes then are told apart by their value alone. That is checked, not hoped
for: witnesses are tried until every expression of the program has a value of its own, none of which is a number of the
program or below `SMALL`.

How a wrong folding is prevented. What a program computes *from* a size is an argument of the specialised module, so no
pass can fold it. What remains are comparisons of an index along a symbolic dimension with a constant, and conversions
of such an index: passes could take them for decided if the witness were smaller than the constant or fitted the type.
So witnesses are as large as the number of elements of the largest tensor allows (it has to stay below 2^62), by
preference 2^20 or 2^18: larger than positions and windows of models, than what 16 bits hold, and than any table that
a pass evaluates element by element in two dimensions. `Witnesses.floor` is the number that all constants compared
with such indexes have to stay below; `specialize` makes arguments of those that do not.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass

from zenith_mlir.errors import ZenithError
from zenith_mlir.onnx.dynamic.expr import Atom, Expr

__all__ = ["SMALL", "Requirements", "Witnesses", "choose"]

SMALL = 1024
_MAX_ELEMENTS = 1 << 62
_TOO_MANY = "a tensor has too many elements to count"
_BASES = tuple(1 << power for power in (20, 18, 16, 15, 14, 13, 12))
# Sizes that a program divides by these have to be multiples of them.
_FACTORS = (1, 2, 4, 8, 3, 6, 12, 16, 24, 32, 64, 128, 5, 60, 256, 512, 1024)
_OWN = ("min", "max", "mod")


@dataclass(frozen=True)
class Witnesses:
    """Numbers for symbols, and for atoms with a number of their own."""

    symbols: Mapping[str, int]
    atoms: Mapping[Atom, int]

    def value(self, size: Expr) -> int:
        return size.evaluate(self.symbols, self.atoms)

    @property
    def floor(self) -> int:
        """The smallest number that stands for a symbol."""
        return min(self.symbols.values(), default=_BASES[0])


@dataclass(frozen=True)
class Requirements:
    """What witnesses have to fulfil: distinct values for `sizes`, none of them one of `numbers`; the pairs of `assumed`
    equal; tensors of `shapes` small enough to count; `paddings` not negative.
    """

    sizes: Collection[Expr]
    numbers: Collection[int]
    assumed: Sequence[tuple[Expr, Expr]]
    shapes: Collection[tuple[Expr, ...]]
    paddings: Collection[Expr] = ()

    def failure(self, witnesses: Witnesses) -> str:
        """Why these do not do; empty if they do."""
        for a, b in self.assumed:
            if witnesses.value(a) != witnesses.value(b):
                return f"{a} and {b} have to be equal"
        if any(math.prod(map(witnesses.value, shape)) >= _MAX_ELEMENTS for shape in self.shapes):
            return _TOO_MANY
        for size in {*self.paddings, *(size for shape in self.shapes for size in shape)}:
            if witnesses.value(size) < 0:
                return f"the size {size} is negative"
        return self._confusion(witnesses)

    def _confusion(self, witnesses: Witnesses) -> str:
        same = {frozenset(map(str, pair)) for pair in self.assumed}
        meaning: dict[int, Expr] = {}
        for size in self.sizes:
            value = abs(witnesses.value(size))
            other = meaning.setdefault(value, size)
            if other not in (size, -size) and {str(size), str(other)} not in same:
                return f"{size} cannot be told from {other}"
            if value < SMALL or value in self.numbers:
                return f"{size} cannot be told from the number {value}"
        return ""


def choose(requirements: Requirements, salt: int = 0) -> Witnesses:
    """Witnesses that fulfil the requirements; another `salt` gives others.

    Raises: ZenithError if none of those tried do, with what is wrong with the first ones.
    """
    sizes = {*requirements.sizes, *(each for pair in requirements.assumed for each in pair)}
    atoms = sorted({atom for size in sizes for atom in size.all_atoms()}, key=lambda atom: (atom.size, str(atom)))
    names = [atom.name for atom in atoms if atom.function == "symbol"]
    failures = []
    for base in _BASES:
        for count, candidate in enumerate(_candidates(atoms, names, base, salt)):
            failures.append(requirements.failure(candidate))
            if not failures[-1]:
                return candidate
            if count == 0 and failures[-1] == _TOO_MANY:
                break
        else:
            break
    failure = next((failure for failure in failures if failure != _TOO_MANY), _TOO_MANY)
    raise ZenithError(
        f"no numbers can stand for the symbolic dimensions {', '.join(names)}: "
        f"{failure}. State what is known of them, as in jax.export.symbolic_shape('s', constraints=['s >= 8']), or as "
        "in '4*s' for a multiple of 4"
    )


def _candidates(atoms: Sequence[Atom], names: Sequence[str], base: int, salt: int) -> Iterator[Witnesses]:
    """Quotients are computed first; where that does not do (paddings that depend on whether a size is even are too
    small to be told from others), they get numbers of their own too.
    """
    for factor in _FACTORS:
        for own, attempts in ((_OWN, 4), ((*_OWN, "floordiv"), 16)):
            chosen = [atom for atom in atoms if atom.function in own]
            for attempt in range(attempts):
                primes = _primes(base // factor + 1777 * salt + 211 * attempt)
                symbols = {name: next(primes) * factor for name in names}
                yield Witnesses(symbols, _own_numbers(chosen, symbols, primes, below=bool(attempt % 2)))


def _own_numbers(
    atoms: Sequence[Atom], symbols: Mapping[str, int], primes: Iterator[int], below: bool
) -> dict[Atom, int]:
    """Operands come before what is made of them. A minimum is below its operands, a maximum above, or `below` where the
    program subtracts it from what it is the maximum of.
    """
    found: dict[Atom, int] = {}
    for atom in atoms:
        operands = [operand.evaluate(symbols, found) for operand in atom.operands]
        prime = next(primes)
        if atom.function == "floordiv":
            found[atom] = operands[0] // operands[1] + _offset(atom.operands[0], operands[0], prime)
        elif atom.function == "max" and not below:
            found[atom] = prime + max(operands)
        else:
            found[atom] = min([prime // 2 | 1, *(abs(operand) - SMALL for operand in operands if operand > 4 * SMALL)])
    return found


def _offset(dividend: Expr, value: int, prime: int) -> int:
    """How far a quotient is from its value. JAX spells half of s rounded up as -floordiv(-s, 2), and a padding on both
    sides as differences of that and floordiv(1 - s, 2): the first is moved far, the second little, so that none is
    negative."""
    mixed = prime * 40503
    if value < 0 and dividend.terms[-1][0]:
        return -4 * SMALL - mixed % 8192
    return mixed % (2 * SMALL) - SMALL


def _primes(start: int) -> Iterator[int]:
    """Primes from `start` on, in growing steps of more than twice `SMALL`: s + 1 is no other symbol's neighbour."""
    number = max(start, 2) | 1
    for step in itertools.count(1):
        while not _is_prime(number):
            number += 2
        yield number
        number += 4 * SMALL + 314 * step * step


@functools.lru_cache(maxsize=1 << 16)
def _is_prime(number: int) -> bool:
    return number > 1 and all(number % divisor for divisor in range(2, math.isqrt(number) + 1))
