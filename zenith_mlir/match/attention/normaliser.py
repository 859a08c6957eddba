"""The sum of the exponentials of a row, and what is divided by it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from jaxlib.mlir import ir

from zenith_mlir.ir.facts import SHAPE_OPS, defined_by, defining_op, reduction, splat
from zenith_mlir.match.attention.sinks import split_sink
from zenith_mlir.match.axes import Axis, AxisSpace, View, operand_view
from zenith_mlir.match.chains import descends, direct_and_converted_users, through_converts
from zenith_mlir.match.nomatch import NoMatch


@dataclass(frozen=True)
class RowSum:
    """`total` adds up `exponential`, or what `mask`, a select or a product, leaves of it."""

    exponential: ir.Operation
    total: ir.Operation
    mask: ir.Operation | None = None

    @property
    def weights(self) -> tuple[ir.Value, ...]:
        """What divided by the sum may be the probabilities; the first is what is summed."""
        whole = self.exponential.results[0]
        return (whole,) if self.mask is None else (self.mask.results[0], whole)


@dataclass(frozen=True)
class Quotient:
    """`op` divides, or multiplies by a reciprocal: by `divisor`, in which the sum takes part."""

    op: ir.Operation
    divisor: ir.Value


@dataclass(frozen=True)
class Sink:
    """The logit whose exponential is added to the sum, and what its dimensions run over."""

    value: ir.Value
    view: View


def row_sums(exponential: ir.Operation) -> Iterator[RowSum]:
    """Sums of the exponentials, first of all of them, then of those that a mask keeps."""
    weights = exponential.results[0]
    total = _sum_of(weights)
    if total is not None:
        yield RowSum(exponential, total)
    for op in direct_and_converted_users(weights):
        hides = op.name == "stablehlo.select" and any(splat(branch) == 0 for branch in list(op.operands)[1:])
        if hides or op.name == "stablehlo.multiply":
            total = _sum_of(op.results[0])
            if total is not None:
                yield RowSum(exponential, total, op)


def _sum_of(weights: ir.Value) -> ir.Operation | None:
    for op in direct_and_converted_users(weights):
        if reduction(op) == "stablehlo.add" and splat(op.operands[1]) == 0:
            return op
    return None


def quotients(row_sum: RowSum) -> list[Quotient]:
    """Divisions of the weights, or products with them, by something that depends on their sum; divisions first."""
    # That a product with anything has a sum is no sign of a mask; that it is divided by its own sum is.
    product = row_sum.mask is not None and row_sum.mask.name == "stablehlo.multiply"
    weights = row_sum.weights[:1] if product else row_sum.weights
    found = [quotient for value in weights for quotient in quotients_of(value, row_sum)]
    return sorted((q for q in found if not product or q.op.name == "stablehlo.divide"), key=lambda q: q.op.name)


def quotients_of(weights: ir.Value, row_sum: RowSum) -> Iterator[Quotient]:
    for op in direct_and_converted_users(weights):
        for own in _QUOTIENT_OPERANDS.get(op.name, ()):
            if through_converts(op.operands[own]) == weights and descends(op.operands[1 - own], row_sum.total):
                yield Quotient(op, op.operands[1 - own])


_QUOTIENT_OPERANDS = {"stablehlo.divide": (0,), "stablehlo.multiply": (0, 1)}


def normalised(
    space: AxisSpace, row_sum: RowSum, found: list[Quotient], at: View, view: View, axis: Axis
) -> tuple[Quotient, Sink | None] | None:
    """The quotient that divides by the sum, and the sink in that sum if there is one; None if no quotient does: a
    derivative multiplies the weights by other functions of the sum.

    Args:
      at: what the dimensions of the quotients run over.
      view: what those of the weights run over.
    """
    failure: NoMatch | None = None
    for quotient in found:
        try:
            return quotient, _check(space, row_sum, quotient, at, view, axis)
        except NoMatch as miss:
            if quotient.op.name == "stablehlo.divide":
                failure = failure or miss
    if failure is not None:
        raise failure
    return None


def _check(space: AxisSpace, row_sum: RowSum, quotient: Quotient, at: View, view: View, axis: Axis) -> Sink | None:
    """The divisor must be the sum, standing where its rows are; a factor must be one over it."""
    value = quotient.divisor
    reciprocals = 0 if quotient.op.name == "stablehlo.divide" else 1
    current: View | None = at
    sink: Sink | None = None
    while (op := defining_op(value)) is not None and op != row_sum.total and current is not None:
        if op.name == "stablehlo.divide" and splat(op.operands[0]) == 1 and reciprocals:
            reciprocals -= 1
            value = op.operands[1]
        elif op.name == "stablehlo.add" and sink is None:
            value, found = split_sink(space, op, row_sum.exponential, row_sum.total, current, view)
            sink = Sink(*found)
        elif op.name in SHAPE_OPS:
            current = operand_view(space, op, current)
            value = op.operands[0]
        else:
            name = op.name.removeprefix("stablehlo.").removeprefix("chlo.")
            raise NoMatch(op, f"the softmax is normalised by more than its own sum ({name} on the denominator)")
    if reciprocals or current is None or space.resolve_view(current) != rows_of(view, axis):
        raise NoMatch(
            quotient.op,
            "the softmax divides each element by the sum of another row",
            "keep the summed dimension in place",
        )
    return sink


def rows_of(view: View, axis: Axis) -> View:
    """What the dimensions of a sum along `axis` run over."""
    return tuple(dim for dim in view if dim != (axis,))


def require_hidden(row_sum: RowSum, logits: ir.Value) -> None:
    """A mask of the exponentials changes nothing where the same mask has set the logits to -inf: exp(-inf) is 0, and a
    row with nothing left is NaN with it (0 / 0) as without it (-inf minus the maximum -inf).

    Raises: NoMatch if the logits that the mask hides take part in the maximum, or if it hides none.
    """
    mask = row_sum.mask
    if mask is None:
        return
    hidden = defined_by(through_converts(logits), "stablehlo.select")
    if hidden is not None and mask.name == hidden.name and hidden.operands[0] == mask.operands[0]:
        for branch in (1, 2):
            if splat(hidden.operands[branch]) == float("-inf") and splat(mask.operands[branch]) == 0:
                return
    raise NoMatch(
        mask,
        "the softmax masks its exponentials and not the logits, whose maximum it subtracts",
        "set hidden logits to -inf before the maximum, as jax.nn.softmax(x, where=mask) does",
    )
