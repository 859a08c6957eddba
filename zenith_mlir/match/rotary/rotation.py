"""Whether the entries of a value are a rotation of pairs of features: coefficients are compared, spellings are not.

Every rotated feature is the sum of two products, one with its own feature of x and one with that of its partner. The
four coefficients of a pair are those of

    out[a] = x[a] cos[a] - x[b] sin[a]        out[b] = x[b] cos[b] + x[a] sin[b]

or, for the gradient, of the transposed map. Which values of the program hold these coefficients as columns is looked up
among the pieces that were read on the way.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass

from jaxlib.mlir import ir

from zenith_mlir.ir.facts import element_type, is_float, shape
from zenith_mlir.match.axes import Axis
from zenith_mlir.match.rotary.entries import ONE, terms_of
from zenith_mlir.match.rotary.reader import Piece, Reader
from zenith_mlir.match.rotary.views import FEATURES, View, features_of

# A column of a table and the number that it is multiplied by.
Coefficient = tuple[int, float]
Terms = dict[tuple[int, int], float]


BACKWARDS = "it turns backwards, and no value of the program holds the negated sines"


class NoRotation(Exception):
    """The value resembles a rotation and is none that the attributes of a zenith.rotary can say. `ops` were read."""

    ops: Collection[ir.Operation] = ()


@dataclass(frozen=True)
class Rotation:
    """What a value is: `x` rotated by the angles of `cos` and `sin`, or turned back by them if `transposed`. `cos` and
    `sin` are one value where that is complex.
    """

    x: Piece
    cos: Piece
    sin: Piece
    rotated: int
    pairing: str
    transposed: bool


@dataclass(frozen=True)
class _Row:
    """One rotated feature: the coefficients of its own feature of x and of its partner."""

    own: Coefficient
    other: Coefficient
    partner: int


def find_rotations(reader: Reader) -> Iterator[Rotation]:
    """The ways to read the result as a rotation, best first; none if it does not look like one.

    Raises: NoRotation if it looks like one and there is none.
    """
    terms = terms_of(reader.entries.reshape(len(reader.entries), -1))
    found, failure = False, None
    for root in _rotated_roots(reader, terms):
        failure = failure or NoRotation("no value of the program holds the features in the order of the result")
        for x in _sources(reader, root):
            try:
                for rotation in _rotations_of(reader, x, terms):
                    found = True
                    yield rotation
            except NoRotation as miss:
                failure = miss
    if failure is not None and not found:
        raise failure


def _rotated_roots(reader: Reader, terms: Sequence[Terms]) -> list[int]:
    """Roots that could be the rotated value, largest first: each term has one column of it, and the products come two
    by two with the same two columns.
    """
    products = [row for row in terms if any(first != ONE for first, _ in row)]
    if not products or any(len(row) != 2 for row in products):
        return []
    found = []
    for root in sorted(range(len(reader.roots)), key=lambda i: _size(reader.roots[i]), reverse=True):
        if not all(root in map(reader.root_of, term) for row in terms for term in row):
            continue
        pairs = Counter(frozenset(_columns_of(reader, root, row)) for row in products)
        if all(len(pair) == 2 and count == 2 for pair, count in pairs.items()):
            found.append(root)
    return found


def _size(value: ir.Value) -> int:
    return math.prod(shape(value))


def _columns_of(reader: Reader, root: int, row: Terms) -> set[int]:
    return {column for pair in row for column in pair if reader.root_of(column) == root}


def _sources(reader: Reader, root: int) -> list[Piece]:
    """Values that hold features of the root and have the axes of the result; those of its type first, and among them
    those with the features in one last dimension, and those laid out alike.
    """
    axes = _axes(reader, reader.view)
    found = [
        piece
        for piece in reader.pieces.values()
        if is_float(element_type(piece.value))
        and piece.entries.size == reader.features
        and sorted(_axes(reader, piece.view)) == sorted(axes)
        and _is_plain(piece, reader, root)
    ]
    element = element_type(reader.result)

    def rank(piece: Piece) -> tuple[bool, ...]:
        apart = features_of(piece.view) != (len(piece.view) - 1,)
        return element_type(piece.value) != element, apart, not reader.same_axes(piece.view, reader.view)

    return sorted(found, key=rank)


def _axes(reader: Reader, view: View) -> list[Axis]:
    return [axis for dim in reader.resolved(view) if dim is not FEATURES for axis in dim]


def _rotations_of(reader: Reader, x: Piece, terms: Sequence[Terms]) -> Iterator[Rotation]:
    place = {column: i for i, column in enumerate(x.entries["second"].ravel().tolist())}
    rows = [_row(place, row, i) for i, row in enumerate(terms)]
    if any(row is None and not _passes(place, terms[i], i) for i, row in enumerate(rows)):
        raise NoRotation("no value of the program holds the features in the order of the result")
    yield from _with_tables(reader, x, rows)


def _is_plain(piece: Piece, reader: Reader, root: int) -> bool:
    entries = piece.entries
    return bool(
        (entries["factor"] == 1).all()
        and (entries["first"] == ONE).all()
        and (entries["second"] != ONE).all()
        and reader.root_of(int(entries["second"].ravel()[0])) == root
    )


def _row(place: dict[int, int], row: Terms, index: int) -> _Row | None:
    """The row of feature `index`, if it is a sum of two products, one with its own feature of x."""
    if len(row) != 2 or any(ONE in pair for pair in row):
        return None
    found = {}
    for (first, second), factor in row.items():
        column, table = (first, second) if first in place else (second, first)
        found[place.get(column)] = (table, factor)
    partner = next((i for i in found if i is not None and i != index), None)
    if index not in found or partner is None:
        return None
    return _Row(found[index], found[partner], partner)


def _passes(place: dict[int, int], row: Terms, index: int) -> bool:
    """Whether feature `index` is that of x."""
    if len(row) != 1:
        return False
    ((first, second), factor), *_ = row.items()
    return first == ONE and factor == 1 and place.get(second) == index


def _with_tables(reader: Reader, x: Piece, rows: Sequence[_Row | None]) -> Iterator[Rotation]:
    turned = [row for row in rows if row is not None]
    rotated = len(turned)
    if any(row is None for row in rows[:rotated]):
        raise NoRotation("the features that are not rotated come before others that are")
    if rotated % 2:
        raise NoRotation("an odd number of features is rotated")
    pairing = _pairing(turned)
    pairs = _pairs(rotated, pairing)
    cos = [row.own for row in turned]
    ways = ((False, _sines(turned, pairs)), (True, _transposed_sines(turned, pairs)))
    found = [
        (Rotation(x, *tables, rotated, pairing, transposed), _plain_sines(tables[1]))
        for transposed, sin in ways
        if (tables := _tables(reader, cos, sin, pairs)) is not None
    ]
    if not found:
        raise NoRotation(_why_no_tables(turned, pairs))
    # A table as it is says more than one that was negated first.
    yield from (rotation for rotation, _ in sorted(found, key=lambda way: not way[1]))


def _pairing(rows: Sequence[_Row]) -> str:
    half = len(rows) // 2
    if all(row.partner == (i + half) % len(rows) for i, row in enumerate(rows)):
        return "half"
    if all(row.partner == i ^ 1 for i, row in enumerate(rows)):
        return "interleaved"
    raise NoRotation("the pairs are neither a feature and that half the features on, nor neighbours")


def _pairs(rotated: int, pairing: str) -> list[tuple[int, int]]:
    half = rotated // 2
    return [(i, i + half) if pairing == "half" else (2 * i, 2 * i + 1) for i in range(half)]


def _negative(coefficient: Coefficient) -> Coefficient:
    column, factor = coefficient
    return column, -factor


def _sines(rows: Sequence[_Row], pairs: Sequence[tuple[int, int]]) -> list[Coefficient]:
    out = [row.other for row in rows]
    for a, _ in pairs:
        out[a] = _negative(rows[a].other)
    return out


def _transposed_sines(rows: Sequence[_Row], pairs: Sequence[tuple[int, int]]) -> list[Coefficient]:
    out = [row.other for row in rows]
    for a, b in pairs:
        out[b], out[a] = rows[a].other, _negative(rows[b].other)
    return out


def _tables(
    reader: Reader, cos: list[Coefficient], sin: list[Coefficient], pairs: Sequence[tuple[int, int]]
) -> tuple[Piece, Piece] | None:
    """The smallest two values alike whose columns are `cos` and `sin`, one a pair or one a feature; or one complex
    value that holds both.
    """
    options = [(cos, sin)]
    if all(table[a] == table[b] for table in (cos, sin) for a, b in pairs):
        options.insert(0, ([cos[a] for a, _ in pairs], [sin[a] for a, _ in pairs]))
    found = [
        (c, s)
        for wanted_cos, wanted_sin in options
        for c in _holders(reader, wanted_cos)
        for s in _holders(reader, wanted_sin)
        if c.value.type == s.value.type and reader.same_axes(c.view, s.view)
    ]
    if not found:
        both = [[column for pair in zip(*option, strict=True) for column in pair] for option in options]
        found = [(piece, piece) for wanted in both for piece in _holders(reader, wanted, is_complex=True)]
    return min(found, key=lambda tables: _size(tables[0].value), default=None)


def _holders(reader: Reader, wanted: list[Coefficient], is_complex: bool = False) -> list[Piece]:
    """Values whose columns are `wanted`, along their last dimension, and that have no axis that x has not."""
    return [
        piece
        for piece in reader.pieces.values()
        if piece.view[-1:] == (FEATURES,)
        and piece.entries.size == len(wanted) == shape(piece.value)[-1] * (2 if is_complex else 1)
        and isinstance(element_type(piece.value), ir.ComplexType) == is_complex
        and [(second, factor) if first == ONE else None for factor, first, second in piece.entries.ravel().tolist()]
        == wanted
    ]


def _plain_sines(sin: Piece) -> bool:
    return bool((sin.entries["factor"] > 0).all())


def _why_no_tables(rows: Sequence[_Row], pairs: Sequence[tuple[int, int]]) -> str:
    signs = {(rows[a].other[1] > 0) == (rows[b].other[1] > 0) for a, b in pairs}
    if signs == {True}:
        return "both features of a pair have the partner's product with the same sign; a rotation subtracts one"
    if any(row.own[1] != 1 for row in rows):
        return "a cosine is multiplied by a number"
    if all(rows[a].other[1] > 0 for a, _ in pairs):
        return BACKWARDS
    return "the two halves use different tables, and no value of the program holds both"
