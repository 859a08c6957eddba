"""Softmax through its logarithm: exp(x - max x - log(sum(exp(x - max x)))), as exp of jax.nn.log_softmax."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from jaxlib.mlir import ir

from zenith_mlir.ir.facts import SHAPE_OPS, defined_by, defining_op, reduction, splat
from zenith_mlir.match.attention.normaliser import RowSum, row_sums, rows_of
from zenith_mlir.match.axes import Axis, AxisSpace, View
from zenith_mlir.match.chains import read_up, through_converts
from zenith_mlir.match.nomatch import NoMatch


@dataclass(frozen=True)
class Logarithm:
    """`subtraction` takes the logarithm of `row_sum`, at `log`, from the logits; where a `mask` selects, the result
    stays, elsewhere its exponential is 0.
    """

    subtraction: ir.Operation
    log: ir.Operation
    row_sum: RowSum
    mask: ir.Operation | None

    @property
    def keeps_where_false(self) -> bool:
        return self.mask is not None and splat(self.mask.operands[1]) == float("-inf")


def find_logarithm(exponential: ir.Operation) -> Logarithm | None:
    """What `exponential` is the exponential of, if that is the logarithm of a softmax."""
    value = through_converts(exponential.operands[0])
    mask = defined_by(value, "stablehlo.select")
    if mask is not None:
        hidden = [i for i in (1, 2) if splat(mask.operands[i]) == float("-inf")]
        if len(hidden) != 1:
            return None
        value = through_converts(mask.operands[3 - hidden[0]])
    subtraction = defined_by(value, "stablehlo.subtract")
    if subtraction is None:
        return None
    for log in _logarithms(subtraction.operands[1]):
        for row_sum in _sums_under(log):
            return Logarithm(subtraction, log, row_sum, mask)
    return None


def _logarithms(value: ir.Value) -> Iterator[ir.Operation]:
    """Logarithms above `value`, alone or as one side of a sum."""
    op = _source(value)
    if op is None:
        return
    if op.name == "stablehlo.log":
        yield op
    elif op.name == "stablehlo.add":
        yield from (log for side in op.operands if (log := _source(side)) is not None and log.name == "stablehlo.log")


def _source(value: ir.Value) -> ir.Operation | None:
    while (op := defining_op(value)) is not None and op.name in SHAPE_OPS:
        value = op.operands[0]
    return op


def _sums_under(log: ir.Operation) -> Iterator[RowSum]:
    """The sum of exponentials whose logarithm `log` is."""
    total = _source(log.operands[0])
    if total is not None and total.name == "stablehlo.abs":
        total = _source(total.operands[0])
    if total is None or reduction(total) != "stablehlo.add":
        return
    summed = defining_op(through_converts(total.operands[0]))
    candidates = [summed, *(defining_op(through_converts(v)) for v in (() if summed is None else summed.operands))]
    for op in candidates:
        if op is not None and op.name == "stablehlo.exponential":
            yield from (row_sum for row_sum in row_sums(op) if row_sum.total == total)


def check_logarithm(space: AxisSpace, found: Logarithm, view: View, axis: Axis) -> None:
    """What is subtracted must be the logarithm of the sum of the same row, from what was exponentiated.

    Raises: NoMatch if it is not.
    """
    exponent, base = found.row_sum.exponential.operands[0], found.subtraction.operands[0]
    value, current = read_up(space, found.subtraction.operands[1], view)
    if (shifted := defining_op(value)) is not None and shifted.name == "stablehlo.add":
        raise NoMatch(
            shifted,
            "sum and maximum are taken off in one number: beside a large maximum the sum is lost",
            "use jax.nn.softmax or jax.nn.log_softmax",
        )
    if through_converts(exponent) != through_converts(base) or defining_op(value) != found.log:
        raise _another(found)
    value, current = read_up(space, found.log.operands[0], current)
    magnitude = defined_by(value, "stablehlo.abs")  # as jax.nn.logsumexp takes it
    if magnitude is not None:
        value, current = read_up(space, magnitude.operands[0], current)
    if value != found.row_sum.total.results[0] or space.resolve_view(current) != rows_of(view, axis):
        raise _another(found)


def _another(found: Logarithm) -> NoMatch:
    return NoMatch(
        found.subtraction,
        "the logarithm of the softmax is normalised by more than its own sum, or by another row's",
        "use jax.nn.softmax",
    )
