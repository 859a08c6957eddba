"""What numbers of a traced program are sizes: read off two traces whose dimensions are different primes.

A number that is the same in both traces is a literal. One that differs must be the same product of named
dimensions in both, or, for the constants of the program, the same simple function of such a product (1/n,
1/√d, n - 1). Anything else depends on the sizes in a way that a pattern cannot follow.
"""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from zenith_mlir.ir.facts import Number
from zenith_mlir.match.search import PatternError

Sizes = Mapping[str, int]

# Larger than the literals in programs, so that a size is not taken for one, and different from each other.
_PRIMES = (
    (31, 37, 41, 43, 47, 53, 59, 61, 67, 71, 73, 79),
    (83, 89, 97, 101, 103, 107, 109, 113, 127, 131, 137, 139),
)


@dataclass(frozen=True)
class ArgumentType:
    """`"f32[*b n 8]"`: an element type, None where the text names none, and dimensions: names, numbers, one
    `*name` at most."""

    dtype: str | None
    dims: tuple[str | int, ...]

    @classmethod
    def parse(cls, text: str) -> ArgumentType:
        """Raises: PatternError for text of another form."""
        match = re.fullmatch(r"\s*(?:(\w+)\s*\[([^\]]*)\]|([^\[\]]*))\s*", text)
        words = "" if match is None else (match[2] if match[1] else match[3])
        if match is None or not all(re.fullmatch(r"\*?[A-Za-z]\w*|[1-9]\d*", word) for word in words.split()):
            raise PatternError(
                f"cannot read the dimensions {text!r}: names, numbers and one *name for any number of "
                "dimensions are expected, separated by blanks, with the element type around them if it "
                'matters: "b n", "*b 8", "bf16[b n]"'
            )
        dims = tuple(int(word) if word.isdigit() else word for word in words.split())
        if sum(isinstance(dim, str) and dim.startswith("*") for dim in dims) > 1:
            raise PatternError(f"{text!r} has two dimensions with a star; which sizes are whose cannot be told")
        return cls(match[1], dims)

    def expanded(self, rank: int) -> ArgumentType:
        """With `*b` written out as the `rank` dimensions b[0], b[1], ..."""
        dims: list[str | int] = []
        for dim in self.dims:
            if isinstance(dim, str) and dim.startswith("*"):
                dims += [f"{dim[1:]}[{i}]" for i in range(rank)]
            else:
                dims.append(dim)
        return ArgumentType(self.dtype, tuple(dims))

    def shape(self, sizes: Sizes) -> tuple[int, ...]:
        return tuple(sizes[dim] if isinstance(dim, str) else dim for dim in self.dims)

    @property
    def names(self) -> set[str]:
        return {dim for dim in self.dims if isinstance(dim, str)}


def tracing_sizes(names: Sequence[str]) -> tuple[Sizes, Sizes]:
    """Two sets of sizes for the named dimensions, all of them different primes.

    Raises: PatternError for more names than there are primes to give.
    """
    if len(names) > len(_PRIMES[0]):
        raise PatternError(f"a traced pattern has at most {len(_PRIMES[0])} named dimensions, not {len(names)}")
    a, b = (dict(zip(names, primes, strict=False)) for primes in _PRIMES)
    return a, b


@dataclass(frozen=True)
class Product:
    """`coefficient` times named dimensions, each as often as it is named; without names a literal."""

    coefficient: int
    names: tuple[str, ...] = ()

    def __call__(self, sizes: Sizes) -> int:
        return self.coefficient * math.prod(sizes[name] for name in self.names)

    def __str__(self) -> str:
        factors = [str(self.coefficient)] if self.coefficient != 1 or not self.names else []
        return " * ".join([*factors, *self.names])


def read_size(numbers: tuple[int, int], sizes: tuple[Sizes, Sizes]) -> Product | None:
    """The product of dimensions that a size is in both traces."""
    if numbers[0] == numbers[1]:
        return Product(numbers[0])
    a, b = (_factor(number, known) for number, known in zip(numbers, sizes, strict=True))
    return a if a == b else None


def _factor(number: int, sizes: Sizes) -> Product:
    names: list[str] = []
    for name, prime in sizes.items():
        while number and number % prime == 0:
            number //= prime
            names.append(name)
    return Product(number, tuple(names))


@dataclass(frozen=True)
class Constant:
    """A number in the program: `factor` times `form` of a product of dimensions; without a product the
    literal `factor`."""

    factor: Number
    form: str = ""
    product: Product | None = None

    def __call__(self, sizes: Sizes) -> Number:
        return self.factor if self.product is None else self.factor * _FORMS[self.form](self.product(sizes))

    def fits(self, number: Number, dtype: np.dtype, sizes: Sizes) -> bool:
        """Whether `number` of that type is this constant: to the last bit, or the bit before where the form
        itself is rounded."""
        exact, found = float(self(sizes)), float(number)
        if exact != exact or found != found:
            return exact != exact and found != found
        with np.errstate(over="ignore"):
            expected = float(np.asarray(self(sizes)).astype(dtype))
        if self.form in _EXACT_FORMS:
            return expected == found
        return abs(expected - found) <= float(np.abs(np.spacing(np.asarray(expected, dtype))))

    def __str__(self) -> str:
        if self.product is None:
            return f"{self.factor:g}"
        body = f"{self.form} of {self.product}" if self.form else str(self.product)
        return body if self.factor == 1 else f"{self.factor:g} * ({body})"


_FORMS: dict[str, Callable[[int], float]] = {
    "": float,
    "reciprocal": lambda n: 1 / n,
    "square root": math.sqrt,
    "reciprocal square root": lambda n: 1 / math.sqrt(n),
    "predecessor": lambda n: n - 1,
    "reciprocal predecessor": lambda n: 1 / (n - 1) if n != 1 else math.inf,
}
_EXACT_FORMS = ("", "predecessor")
_FACTORS = (1, -1, 2, -2, 0.5, -0.5)


def read_constant(numbers: tuple[Number, Number], dtype: np.dtype, sizes: tuple[Sizes, Sizes]) -> Constant | None:
    """The function of the dimensions that a constant is in both traces; None if there is none, or more than
    one."""
    a, b = numbers
    if a == b or (a != a and b != b):
        return Constant(a)
    found = [
        candidate
        for candidate in _candidates(list(sizes[0]))
        if all(candidate.fits(number, dtype, known) for number, known in zip(numbers, sizes, strict=True))
    ]
    return found[0] if len(found) == 1 else None


def _candidates(names: list[str]) -> Iterator[Constant]:
    for count in range(1, len(names) + 1):
        for chosen in itertools.combinations(names, count):
            for form, factor in itertools.product(_FORMS, _FACTORS):
                yield Constant(factor, form, Product(1, chosen))
