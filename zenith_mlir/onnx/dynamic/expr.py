"""Expr: an integer that depends on symbolic dimensions, in one normal form.

A polynomial with integer coefficients over atoms: the symbols, and `floordiv`, `mod`, `min` and `max` of expressions,
as `jax.export` has them. Equal polynomials are equal objects, so that sizes are compared by `==`. Symbols are at least
1, as JAX takes them to be.
"""

from __future__ import annotations

import ast
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property, reduce

from zenith_mlir.errors import ZenithError

__all__ = ["Atom", "Expr", "applied", "floordiv", "maximum", "minimum", "mod", "parse"]

Bounds = tuple[float, float]
_UNBOUNDED: Bounds = (-math.inf, math.inf)


def _truncated(a: int, b: int) -> int:
    return a // b if (a < 0) == (b < 0) else -(-a // b)


# What an atom computes of its operands. Those after `min` occur only while a program is read (`numbers.py`).
_FUNCTIONS: Mapping[str, Callable[..., int]] = {
    "floordiv": lambda a, b: a // b,
    "mod": lambda a, b: a % b,
    "max": max,
    "min": min,
    "truncdiv": _truncated,
    "truncmod": lambda a, b: a - b * _truncated(a, b),
    "is_zero": lambda a: int(a == 0),
    "is_negative": lambda a: int(a < 0),
}
_STATED = frozenset(("floordiv", "mod", "max", "min"))
_TRUTHS = frozenset(("is_zero", "is_negative"))


@dataclass(frozen=True)
class Atom:
    """A symbol (`function` is "symbol"), a value of the program that nothing is known of ("value"), or a function of
    expressions."""

    function: str
    name: str = ""
    operands: tuple[Expr, ...] = ()

    def __hash__(self) -> int:
        return self._hash

    @cached_property
    def _hash(self) -> int:
        return hash((self.function, self.name, self.operands))

    @cached_property
    def size(self) -> int:
        """How much there is to write; larger terms come first."""
        return 1 + sum(atom.size for operand in self.operands for atom in operand.atoms())

    @cached_property
    def bounds(self) -> Bounds:
        if self.function == "symbol":
            return 1, math.inf
        if self.function in _TRUTHS:
            return 0, 1
        inner = [operand.bounds for operand in self.operands]
        if self.function in ("min", "max"):
            function = _FUNCTIONS[self.function]
            return function(low for low, _ in inner), function(high for _, high in inner)
        if self.function in ("floordiv", "mod"):
            (low, high), divisor = inner[0], self.operands[1].constant
            if divisor is None or divisor <= 0:
                return (0, inner[1][1]) if self.function == "mod" and inner[1][0] > 0 else _UNBOUNDED
            if self.function == "mod":
                return 0, divisor - 1
            return tuple(end if math.isinf(end) else end // divisor for end in (low, high))  # type: ignore[return-value]
        return _UNBOUNDED

    def evaluate(self, values: Mapping[str, int], known: Mapping[Atom, int]) -> int:
        if self in known:
            return known[self]
        if self.function == "symbol":
            return values[self.name]
        return _FUNCTIONS[self.function](*(operand.evaluate(values, known) for operand in self.operands))

    def __str__(self) -> str:
        return self._spelled

    @cached_property
    def _spelled(self) -> str:
        return self.name if not self.operands else f"{self.function}({', '.join(map(str, self.operands))})"


Monomial = tuple[tuple[Atom, int], ...]


def _size(monomial: Monomial) -> int:
    return sum(atom.size * power for atom, power in monomial)


def _spelled(monomial: Monomial) -> str:
    return "*".join(str(atom) if power == 1 else f"{atom}^{power}" for atom, power in monomial)


def _factor_order(factor: tuple[Atom, int]) -> tuple[int, str]:
    return factor[0].size, str(factor[0])


@dataclass(frozen=True)
class Expr:
    """Made by `Expr.symbol`, `Expr.number`, `parse`, arithmetic and the functions of this module."""

    terms: tuple[tuple[Monomial, int], ...]

    @classmethod
    def number(cls, value: int) -> Expr:
        return cls((((), int(value)),) if value else ())

    @classmethod
    def symbol(cls, name: str) -> Expr:
        return cls.of(Atom("symbol", name))

    @classmethod
    def of(cls, atom: Atom) -> Expr:
        return cls(((((atom, 1),), 1),))

    def __hash__(self) -> int:
        return self._hash

    @cached_property
    def _hash(self) -> int:
        return hash(self.terms)

    @property
    def constant(self) -> int | None:
        """The number that this is; None if it depends on anything."""
        if not self.terms:
            return 0
        return self.terms[0][1] if len(self.terms) == 1 and not self.terms[0][0] else None

    @property
    def plain(self) -> str | None:
        """The name of the symbol that this is."""
        if len(self.terms) == 1 and self.terms[0][1] == 1:
            monomial = self.terms[0][0]
            if len(monomial) == 1 and monomial[0][1] == 1 and monomial[0][0].function == "symbol":
                return monomial[0][0].name
        return None

    def atoms(self) -> Iterator[Atom]:
        """The atoms of the polynomial; not those within the operands of atoms."""
        return (atom for monomial, _ in self.terms for atom, _ in monomial)

    def all_atoms(self) -> Iterator[Atom]:
        """Operands of atoms first."""
        for atom in self.atoms():
            for operand in atom.operands:
                yield from operand.all_atoms()
            yield atom

    @cached_property
    def symbols(self) -> frozenset[str]:
        return frozenset(atom.name for atom in self.all_atoms() if atom.function == "symbol")

    @cached_property
    def is_stated(self) -> bool:
        """Whether symbols and the functions of JAX's dimensions are all it depends on."""
        return all(atom.function == "symbol" or atom.function in _STATED for atom in self.all_atoms())

    @cached_property
    def bounds(self) -> Bounds:
        """The least and the greatest that it can be, as far as intervals tell."""
        return tuple(
            map(sum, zip((0, 0), *(_scaled(monomial, factor) for monomial, factor in self.terms), strict=True))
        )  # type: ignore[return-value]

    def evaluate(self, values: Mapping[str, int], known: Mapping[Atom, int] | None = None) -> int:
        """The number for symbols of these values; `known` gives atoms a value of their own.

        Raises: KeyError for a symbol without a value.
        """
        total = 0
        for monomial, factor in self.terms:
            total += factor * math.prod(atom.evaluate(values, known or {}) ** power for atom, power in monomial)
        return total

    def replace(self, values: Mapping[Atom, Expr]) -> Expr:
        """With atoms replaced, those within operands too."""
        total = Expr(())
        for monomial, factor in self.terms:
            total += reduce(
                Expr.__mul__, [_replaced(atom, values) ** power for atom, power in monomial], Expr.number(factor)
            )
        return total

    def __add__(self, other: Expr | int) -> Expr:
        terms = dict(self.terms)
        for monomial, factor in _expr(other).terms:
            terms[monomial] = terms.get(monomial, 0) + factor
        return _normal(terms)

    def __mul__(self, other: Expr | int) -> Expr:
        terms: dict[Monomial, int] = {}
        for a, x in self.terms:
            for b, y in _expr(other).terms:
                product = _product(a, b)
                terms[product] = terms.get(product, 0) + x * y
        return _normal(terms)

    def __pow__(self, power: int) -> Expr:
        return reduce(Expr.__mul__, [self] * power, Expr.number(1))

    def __neg__(self) -> Expr:
        return self * -1

    def __sub__(self, other: Expr | int) -> Expr:
        return self + _expr(other) * -1

    __radd__ = __add__
    __rmul__ = __mul__

    def __rsub__(self, other: int) -> Expr:
        return _expr(other) - self

    def __str__(self) -> str:
        spelled = ""
        for monomial, factor in self.terms:
            number = [str(abs(factor))] if abs(factor) != 1 or not monomial else []
            term = "*".join(number + ([_spelled(monomial)] if monomial else []))
            sign = ("- " if factor < 0 else "") if not spelled else (" - " if factor < 0 else " + ")
            spelled += sign + term
        return spelled or "0"

    def __repr__(self) -> str:
        return f"Expr({str(self)!r})"


def _expr(value: Expr | int) -> Expr:
    return value if isinstance(value, Expr) else Expr.number(value)


def _normal(terms: Mapping[Monomial, int]) -> Expr:
    kept = [(monomial, factor) for monomial, factor in terms.items() if factor]
    return Expr(tuple(sorted(kept, key=lambda term: (_size(term[0]), _spelled(term[0])), reverse=True)))


def _product(a: Monomial, b: Monomial) -> Monomial:
    powers = dict(a)
    for atom, power in b:
        powers[atom] = 1 if atom.function in _TRUTHS else powers.get(atom, 0) + power
    return tuple(sorted(powers.items(), key=_factor_order))


def _scaled(monomial: Monomial, factor: int) -> Bounds:
    low, high = float(factor), float(factor)
    for atom, power in monomial:
        for _ in range(power):
            ends = [_times(a, b) for a in (low, high) for b in atom.bounds]
            low, high = min(ends), max(ends)
    return low, high


def _times(a: float, b: float) -> float:
    return 0 if a == 0 or b == 0 else a * b  # 0 * inf is no number


_MAKERS: dict[str, Callable[..., Expr]] = {}


def _replaced(atom: Atom, values: Mapping[Atom, Expr]) -> Expr:
    if atom in values:
        return values[atom]
    if not atom.operands:
        return Expr.of(atom)
    operands = tuple(operand.replace(values) for operand in atom.operands)
    make = _MAKERS.get(atom.function)
    return Expr.of(Atom(atom.function, "", operands)) if make is None else make(*operands)


def applied(function: str, *operands: Expr) -> Expr:
    """The atom, or its number if all operands are numbers."""
    numbers = [operand.constant for operand in operands]
    if all(number is not None for number in numbers):
        return Expr.number(_FUNCTIONS[function](*numbers))
    return Expr.of(Atom(function, "", operands))


def floordiv(a: Expr, b: Expr) -> Expr:
    """The quotient, rounded down. What `b` divides of `a` is divided.

    Raises: ZenithError for a divisor that is 0.
    """
    divisor = b.constant
    if divisor == 0:
        raise ZenithError(f"the size floordiv({a}, 0) divides by zero")
    if divisor is None:
        quotient = _exact(a, b)
        return applied("floordiv", a, b) if quotient is None else quotient
    if divisor < 0:
        return floordiv(-a, -b)
    whole = _normal({monomial: factor // divisor for monomial, factor in a.terms if factor % divisor == 0})
    rest = a - whole * divisor
    # The number left over is kept within the divisor, so that floordiv(s + 5, 4) is floordiv(s + 1, 4) + 1.
    over = next((factor // divisor for monomial, factor in rest.terms if not monomial), 0)
    rest, whole = rest - over * divisor, whole + over
    low, high = rest.bounds
    if low >= 0 and high < divisor:
        return whole
    return whole + applied("floordiv", rest, b)


def _exact(a: Expr, b: Expr) -> Expr | None:
    """a / b if b is one term that divides every term of a."""
    if len(b.terms) != 1:
        return Expr.number(1) if a == b else None
    (divisor, scale), terms = b.terms[0], {}
    for monomial, factor in a.terms:
        powers = dict(monomial)
        for atom, power in divisor:
            powers[atom] = powers.get(atom, 0) - power
        if factor % scale or min(powers.values(), default=0) < 0:
            return None
        terms[tuple((atom, power) for atom, power in powers.items() if power)] = factor // scale
    return _normal(terms)


def mod(a: Expr, b: Expr) -> Expr:
    """What is left of `a` divided by `b`, with the sign of `b`.

    Raises: ZenithError for a divisor that is 0.
    """
    divisor = b.constant
    if divisor == 0:
        raise ZenithError(f"the size mod({a}, 0) divides by zero")
    if divisor is None or divisor < 0:
        quotient = floordiv(a, b)
        return a - quotient * b if _exact(a, b) is not None else applied("mod", a, b)
    rest = _normal(
        {monomial: factor % divisor if not monomial else factor for monomial, factor in a.terms if factor % divisor}
    )
    low, high = rest.bounds
    return rest if low >= 0 and high < divisor else applied("mod", rest, b)


def _operand_order(operand: Expr) -> tuple[bool, str]:
    return operand.constant is not None, str(operand)


def maximum(a: Expr, b: Expr) -> Expr:
    low, high = (a - b).bounds
    if low >= 0:
        return a
    return b if high <= 0 else applied("max", *sorted((a, b), key=_operand_order))


def minimum(a: Expr, b: Expr) -> Expr:
    low, high = (a - b).bounds
    if high <= 0:
        return a
    return b if low >= 0 else applied("min", *sorted((a, b), key=_operand_order))


_MAKERS.update({"floordiv": floordiv, "mod": mod, "max": maximum, "min": minimum})


def parse(text: str) -> Expr:
    """An expression as JAX writes it: "2*b", "s + 1", "floordiv(s, 2)", "b^2".

    Raises: ZenithError for text of another form.
    """
    try:
        return _parsed(ast.parse(text.strip().replace("^", "**"), mode="eval").body)
    except (SyntaxError, KeyError, TypeError, ValueError):
        raise ZenithError(
            f"cannot read the dimension {text!r}; a sum of products of names, integers, floordiv(a, b), mod(a, b), "
            "max(a, b) and min(a, b) is expected"
        ) from None


_OPERATORS: Mapping[type[ast.operator], Callable[[Expr, Expr], Expr]] = {
    ast.Add: lambda a, b: a + b,
    ast.Sub: lambda a, b: a - b,
    ast.Mult: lambda a, b: a * b,
    ast.Pow: lambda a, b: a ** int(str(b)),
    ast.FloorDiv: floordiv,
    ast.Mod: mod,
}


def _parsed(node: ast.expr) -> Expr:
    match node:
        case ast.Constant(value=int(value)):
            return Expr.number(value)
        case ast.Name(id=name):
            return Expr.symbol(name)
        case ast.UnaryOp(op=ast.USub(), operand=operand):
            return -_parsed(operand)
        case ast.BinOp(left=left, op=operator, right=right):
            return _OPERATORS[type(operator)](_parsed(left), _parsed(right))
        case ast.Call(func=ast.Name(id=name), args=operands):
            return _MAKERS[name](*map(_parsed, operands))
    raise ValueError(node)
