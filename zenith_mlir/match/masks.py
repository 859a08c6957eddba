"""What a boolean mask says about (row, column): bands proven from index arithmetic or constants, and the residue that
is not.

A band is low <= column - row <= high. Causal is (-inf, 0]; a causal window of w is [1 - w, 0]. Nothing is guessed: a
conjunct of the mask either is a band for all indices, or it stays what it is.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from jaxlib.mlir import ir

from zenith_mlir.canonical.splats import comparison_direction
from zenith_mlir.ir.facts import defined_by, defining_op, element_type, is_float, splat
from zenith_mlir.match.affine import Affine, affine
from zenith_mlir.match.axes import Axis, AxisSpace, View, axes_of, operand_view
from zenith_mlir.match.constants import evaluate


@dataclass(frozen=True)
class Band:
    """Visible where low <= index of column - index of row <= high; None is unbounded."""

    row: Axis
    column: Axis
    low: int | None
    high: int | None


@dataclass(frozen=True)
class Term:
    """A boolean tensor of a conjunction, negated or not, and what its dimensions run over."""

    value: ir.Value
    view: View
    negated: bool = False


@dataclass(frozen=True)
class Mask:
    """A conjunction: all `bands` and all `residue` terms must hold. `never` means that nothing is visible."""

    bands: tuple[Band, ...]
    residue: tuple[Term, ...]
    never: bool = False


def recover(space: AxisSpace, value: ir.Value, view: View, column: Axis, negated: bool = False) -> Mask:
    """Read the i1 tensor `value` (or its negation) as bands between some row axis and `column`, and a residue."""
    bands: list[Band] = []
    residue: list[Term] = []
    for term in _conjuncts(space, Term(value, view, negated), 0):
        number = splat(term.value)
        if number is not None:
            if bool(number) == term.negated:
                return Mask((), (), never=True)
            continue
        band = _band_of_compare(space, term, column) or _band_of_constant(space, term, column)
        if band is None:
            residue.append(term)
        elif band.low is not None or band.high is not None:
            bands.append(band)
    return Mask(tuple(bands), tuple(residue))


def _conjuncts(space: AxisSpace, term: Term, depth: int) -> Iterator[Term]:
    """Split `a and b`, and `not (a or b)`; look through shape operations only when there is something to split or prove
    below.
    """
    op = defining_op(term.value)
    if op is None or depth > 32:
        yield term
    elif op.name == "stablehlo.not":
        yield from _conjuncts(space, Term(op.operands[0], term.view, not term.negated), depth + 1)
    elif op.name == ("stablehlo.or" if term.negated else "stablehlo.and"):
        for operand in op.operands:
            yield from _conjuncts(space, Term(operand, term.view, term.negated), depth + 1)
    elif op.name != "stablehlo.convert" and (inner := operand_view(space, op, term.view)) is not None:
        yield from _conjuncts(space, Term(op.operands[0], inner, term.negated), depth + 1)
    else:
        yield term


# a - b compared with zero: (direction) -> (lower bound, upper bound) on a - b
Limits = tuple[int | None, int | None]
_RANGES: dict[str, Limits] = {
    "LT": (None, -1), "LE": (None, 0), "GT": (1, None), "GE": (0, None), "EQ": (0, 0),
}  # fmt: skip
_NEGATED = {"LT": "GE", "LE": "GT", "GT": "LE", "GE": "LT", "NE": "EQ", "EQ": "NE"}


def _band_of_compare(space: AxisSpace, term: Term, column: Axis) -> Band | None:
    op = defining_op(term.value)
    if op is None or op.name != "stablehlo.compare" or is_float(element_type(op.operands[0])):
        return None
    direction = comparison_direction(op)
    limits = _RANGES.get(_NEGATED[direction] if term.negated else direction)
    a, b = (affine(space, operand, term.view) for operand in op.operands)
    if limits is None or b is None:
        return None
    if a is None:
        return _band_of_distance(space, op, b, limits, term.view, column)
    return _band_of(a + b.scaled(-1), limits, column)


def _band_of_distance(
    space: AxisSpace, op: ir.Operation, bound: Affine, limits: Limits, view: View, column: Axis
) -> Band | None:
    """abs(x) < c, a symmetric window: -c < x < c."""
    distance = defined_by(op.operands[0], "stablehlo.abs")
    inner = None if distance is None else affine(space, distance.operands[0], view)
    if inner is None or bound.coefficients or limits[0] is not None or limits[1] is None:
        return None
    reach = limits[1] + bound.offset
    return _band_of(inner, (-reach, reach), column)


def _band_of(difference: Affine, limits: Limits, column: Axis) -> Band | None:
    """The band where `difference`, an affine function of a row and the column, lies within `limits`."""
    rows = difference.coefficients.keys() - {column}
    if difference.coefficients.get(column) not in (1, -1) or len(rows) != 1:
        return None
    (row,) = rows
    sign = difference.coefficients[column]
    if difference.coefficients[row] != -sign:
        return None
    # sign * (column - row) + offset lies within limits
    low, high = (None if limit is None else sign * (limit - difference.offset) for limit in limits)
    return Band(row, column, low, high) if sign == 1 else Band(row, column, high, low)


def _band_of_constant(space: AxisSpace, term: Term, column: Axis) -> Band | None:
    """A constant mask over one row axis and the column, compared with the band it would have to be, element by
    element.
    """
    view = space.resolve_view(term.view)
    rows = axes_of(view) - {column}
    wide = [dim for dim in view if dim]
    if len(rows) != 1 or len(wide) != 2 or any(len(dim) != 1 for dim in wide):
        return None
    array = evaluate(term.value)
    if array is None:
        return None
    table = array.reshape([space.size(dim[0]) for dim in wide])
    table = table if wide[1] == (column,) else table.T
    visible = table.astype(bool) != term.negated
    if not visible.any():
        return None
    distance = np.arange(visible.shape[1])[None, :] - np.arange(visible.shape[0])[:, None]
    low, high = int(distance[visible].min()), int(distance[visible].max())
    if not np.array_equal(visible, (low <= distance) & (distance <= high)):
        return None
    (row,) = rows
    unbounded_low, unbounded_high = low == distance.min(), high == distance.max()
    return Band(row, column, None if unbounded_low else low, None if unbounded_high else high)
