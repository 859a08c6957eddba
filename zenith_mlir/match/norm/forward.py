"""From the root down to what a norm computes: the last values that are n (weight + offset) + bias."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from jaxlib.mlir import ir

from zenith_mlir.ir.facts import shape, users
from zenith_mlir.match.algebra.polynomial import ONE, Atom, NotPolynomial, Polynomial, Tensor
from zenith_mlir.match.axes import View
from zenith_mlir.match.norm.reader import NormReader
from zenith_mlir.match.norm.spread import Spread
from zenith_mlir.match.norm.statistics import Statistics

# How many operations are looked at below a root.
_MAX_OPS = 64


@dataclass(frozen=True)
class Vector:
    """`tensor`, of that view, + `number`; `tensor` may be missing."""

    tensor: ir.Value | None
    number: float
    view: View = ()


@dataclass(frozen=True)
class Normalised:
    """`result` is n · factor + bias."""

    result: ir.Value
    factor: Vector
    bias: Vector


@dataclass(frozen=True)
class Parts:
    """What follows from x and from vectors over the normalised axes alone, and which of that is a norm."""

    spread: Spread[NormReader]
    norms: tuple[Normalised, ...]


def parts(found: Statistics, root: ir.Operation, position: Callable[[ir.Operation], int]) -> Parts:
    """What is computed from the normalised rows; the norms are those that no other norm is computed from."""
    spread = found.following()
    spread.views[root.results[0]] = spread.views[root.operands[0]]

    def wanted(value: ir.Value, view: View) -> bool:
        return all(is_part(found, spread.reader, atom) for atom in atoms_of(spread.reader, value, view))

    forms: dict[ir.Value, Normalised] = {}
    for value in spread.follow(list(spread.views), position, wanted, _MAX_OPS):
        form = _form(found, spread, value)
        if form is not None:
            forms[value] = form
    last = [form for value, form in forms.items() if not any(user.results[0] in forms for user in _single(value))]
    return Parts(spread, tuple(last))


def atoms_of(reader: NormReader, value: ir.Value, view: View) -> set[Atom | None]:
    """The atoms that `value` is a polynomial of; None is among them if it is no polynomial."""
    try:
        return set(reader.read(value, view).atoms())
    except NotPolynomial:
        return {None}


def is_part(found: Statistics, reader: NormReader, atom: Atom | None) -> bool:
    """Whether an atom is one of `reader`'s leaves, a root or a sum, or runs over what weights may run over."""
    if not isinstance(atom, Tensor):
        return atom is not None
    return atom.value in reader.leaves or atom.axes(reader.space) <= found.vector_axes


def unit(found: Statistics, reader: NormReader) -> Polynomial:
    """n, the normalised rows."""
    centre = reader.x - reader.mean(reader.x) if found.centred else reader.x
    return reader.resolved(centre * reader.root).scaled(found.scale**0.5)


def vector(found: Statistics, polynomial: Polynomial) -> Vector | None:
    """A tensor as a weight is one plus a number, either of which may be missing; None if it is something else."""
    space = found.reader.space
    wanted = [dim for i in found.dims if (dim := space.resolve(found.view[i]))]
    tensor: ir.Value | None = None
    view: View = ()
    for monomial, coefficient in polynomial.terms.items():
        if monomial == ONE:
            continue
        ((atom, exponent), *others) = monomial
        is_single = not others and exponent == 1 and tensor is None and abs(coefficient - 1) < 1e-6
        if not is_single or not isinstance(atom, Tensor) or atom.boolean or atom.value == found.x:
            return None
        tensor, view = atom.value, space.resolve_view(atom.view)
        is_whole = [dim for dim in view if dim] == wanted
        if not (is_whole if found.is_trailing else view and atom.axes(space) <= found.vector_axes):
            return None
    return Vector(tensor, polynomial.terms.get(ONE, 0.0), view)


def _single(value: ir.Value) -> list[ir.Operation]:
    return [user for user in users(value) if len(user.results) == 1]


def _form(found: Statistics, spread: Spread[NormReader], value: ir.Value) -> Normalised | None:
    """`value` as a norm of x, if it is one."""
    reader = spread.reader
    view = reader.space.resolve_view(spread.views[value])
    if view != reader.space.resolve_view(found.view) or shape(value) != shape(found.x):
        return None
    polynomial = reader.resolved(reader.read(value, view))
    weight = coefficient(polynomial, reader.resolved(reader.x * reader.root)).scaled(found.scale**-0.5)
    factor, bias = vector(found, weight), vector(found, polynomial - unit(found, reader) * weight)
    if factor is None or bias is None or not weight.terms or bias.number:
        return None
    return Normalised(value, factor, bias) if factor.tensor is not None or factor.number == 1 else None


def coefficient(polynomial: Polynomial, factors: Polynomial) -> Polynomial:
    """What the product `factors` is multiplied by: of the terms that hold each of its atoms to its power."""
    ((product, _),) = factors.terms.items()
    return Polynomial({monomial - product: c for monomial, c in polynomial.terms.items() if product <= monomial})
