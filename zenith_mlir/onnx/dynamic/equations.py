"""Sizes that a program needs to be equal: free symbols are solved for, the rest is remembered."""

from __future__ import annotations

from collections.abc import Iterator

from zenith_mlir.errors import ZenithError
from zenith_mlir.onnx.dynamic.expr import Atom, Expr

__all__ = ["Equations"]


class Equations:
    """Expressions under the equations stated so far.

    A free symbol stands for a dimension that the module does not name. `assumed` are pairs that the program needs to be
    equal and that arithmetic alone does not make so, as s and 4*floordiv(s, 4) where the caller promised a multiple.
    """

    def __init__(self) -> None:
        self.assumed: list[tuple[Expr, Expr]] = []
        self._free: dict[Atom, None] = {}
        self._solved: dict[Atom, Expr] = {}

    def free(self, name: str) -> Expr:
        """A new free symbol."""
        atom = Atom("symbol", name)
        self._free[atom] = None
        return Expr.of(atom)

    def resolve(self, value: Expr) -> Expr:
        """With all that is solved put in."""
        while any(atom in self._solved for atom in value.all_atoms()):
            value = value.replace(self._solved)
        return value

    def equate(self, a: Expr, b: Expr, where: str) -> None:
        """`where` is what needs it, for the message.

        Raises: ZenithError if the two can never be equal.
        """
        a, b = self.resolve(a), self.resolve(b)
        difference = a - b
        if not difference.terms or (a, b) in self.assumed:
            return
        for atom, value in (*_solutions(difference), *_quotients(a, b), *_quotients(b, a)):
            if atom in self._free:
                del self._free[atom]
                self._solved[atom] = value
                return
        low, high = difference.bounds
        if difference.constant is not None or low > 0 or high < 0:
            raise ZenithError(f"{where} needs the sizes {a} and {b} to be equal, which they cannot be")
        self.assumed.append((a, b))

    def finish(self) -> None:
        """Put what was solved later into what was assumed earlier."""
        pairs = ((self.resolve(a), self.resolve(b)) for a, b in self.assumed)
        self.assumed = [pair for pair in dict.fromkeys(pairs) if pair[0] != pair[1]]


def _solutions(difference: Expr) -> Iterator[tuple[Atom, Expr]]:
    """atom = value for symbols in which `difference` = 0 is linear, later symbols first."""
    for monomial, factor in difference.terms:
        if len(monomial) != 1 or monomial[0][1] != 1:
            continue
        atom = monomial[0][0]
        rest = difference - Expr(((monomial, factor),))
        if atom.name in rest.symbols or any(each % factor for _, each in rest.terms):
            continue
        yield atom, Expr(tuple((each, count // -factor) for each, count in rest.terms))


def _quotients(a: Expr, b: Expr) -> Iterator[tuple[Atom, Expr]]:
    """x = k (b - c) - r for a = floordiv(x + r, k) + c: so JAX reads the symbol b off a dimension k*b - r."""
    for monomial, factor in a.terms:
        if factor != 1 or len(monomial) != 1 or monomial[0][0].function != "floordiv":
            continue
        dividend, divisor = monomial[0][0].operands
        quotient = b - a + Expr(((monomial, 1),))
        if divisor.constant is not None and not dividend.symbols & quotient.symbols:
            yield from _solutions(dividend - quotient * divisor)
