"""Deferred normalisation: exp(x - max x) v divided by the sum of the exponentials, which is softmax(x) v."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from jaxlib.mlir import ir

from zenith_mlir.ir.facts import SHAPE_OPS, users
from zenith_mlir.match.attention.normaliser import RowSum, Sink, normalised, quotients_of
from zenith_mlir.match.attention.shifts import Shifted
from zenith_mlir.match.axes import Axis, View, result_view
from zenith_mlir.match.chains import between
from zenith_mlir.match.nomatch import NoMatch

if TYPE_CHECKING:
    from zenith_mlir.match.attention.softmax import Softmax

# What may stand between the exponentials and the quotient, besides shape operations.
_ON_THE_WAY = ("stablehlo.multiply", "stablehlo.divide", "stablehlo.select", "stablehlo.slice")
_MAX_DEPTH = 12


@dataclass(frozen=True)
class Deferred:
    """The sum by which the product with the values is still to be divided; `view` and `axis` are those of the
    exponentials.
    """

    row_sum: RowSum
    shifted: Shifted
    view: View
    axis: Axis


@dataclass(frozen=True)
class Division:
    """`result` is the quotient, `view` what its dimensions run over, `ops` lead to it from the product."""

    result: ir.Value
    view: View
    ops: tuple[ir.Operation, ...]
    sink: Sink | None


def is_deferred(row_sum: RowSum) -> bool:
    """Whether a product of the exponentials with something is divided by what depends on their sum."""
    return _leads_to_quotient(row_sum.weights[0], row_sum, multiplied=False, depth=_MAX_DEPTH)


def _leads_to_quotient(value: ir.Value, row_sum: RowSum, multiplied: bool, depth: int) -> bool:
    if depth == 0:
        return False
    if multiplied and any(quotients_of(value, row_sum)):
        return True
    for op in users(value):
        product = op.name == "stablehlo.dot_general"
        passes = op.name in SHAPE_OPS or (op.name in _ON_THE_WAY and not multiplied)
        if (passes or (product and not multiplied)) and _leads_to_quotient(
            op.results[0], row_sum, multiplied or product, depth - 1
        ):
            return True
    return False


def divided(
    softmax: Softmax, deferred: Deferred, product: ir.Operation, view: View, steps: Sequence[ir.Operation]
) -> Division:
    """The division of `product`, whose dimensions run over `view`, by the sum of the exponentials, which have gone
    through `steps` before the product.

    Raises: NoMatch if there is none, or it is not by the sum of the same row alone.
    """
    for step in steps:
        # A row whose sum is NaN is NaN, and after a division before the mask it were 0 where the mask leaves nothing.
        if step.name == "stablehlo.select":
            raise NoMatch(
                step, "the exponentials are masked before they are normalised", "mask the logits, or divide first"
            )
    division = _divided(softmax, deferred, product.results[0], view, ())
    if division is None:
        raise NoMatch(product, "the product with the values is not divided by the sum of the exponentials")
    if division.sink is not None and softmax.sink is not None:
        raise NoMatch(product, "the softmax has two attention sinks")
    deferred.shifted.check(None if division.sink is None else division.sink.value)
    return division


def _divided(
    softmax: Softmax, deferred: Deferred, value: ir.Value, view: View, ops: tuple[ir.Operation, ...]
) -> Division | None:
    row_sum, space = deferred.row_sum, softmax.space
    candidates = list(quotients_of(value, row_sum))
    found = normalised(space, row_sum, candidates, view, deferred.view, deferred.axis)
    if found is not None:
        quotient, sink = found
        stops = {value, row_sum.exponential.results[0], *([] if sink is None else [sink.value])}
        return Division(quotient.op.results[0], view, (*ops, *between(stops, quotient.op)), sink)
    for op in users(value):
        moved = result_view(space, op, view) if op.name in SHAPE_OPS and op.block == softmax.block else None
        if moved is not None:
            division = _divided(softmax, deferred, op.results[0], moved, (*ops, op))
            if division is not None:
                return division
    return None
