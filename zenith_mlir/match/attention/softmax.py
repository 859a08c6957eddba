"""Softmax along one dimension: exp(x - max x) / sum(exp(x - max x)), however it is spelled.

==================  ===============================================================================
`normaliser.py`     the sum, what is divided by it, and masks of the exponentials
`shifts.py`         the row maximum
`sinks.py`          one more logit in the sum
`deferred.py`       the division comes after the product with the values
`logarithm.py`      exp(x - max x - log(sum(exp(x - max x))))
==================  ===============================================================================
"""

from __future__ import annotations

from dataclasses import dataclass, field

from jaxlib.mlir import ir

from zenith_mlir.ir.facts import int_list, producer, reduction, shape
from zenith_mlir.match.attention.deferred import Deferred, is_deferred
from zenith_mlir.match.attention.logarithm import Logarithm, check_logarithm, find_logarithm
from zenith_mlir.match.attention.normaliser import Quotient, RowSum, normalised, quotients, require_hidden, row_sums
from zenith_mlir.match.attention.shifts import strip_shifts
from zenith_mlir.match.attention.sinks import without_sink_column
from zenith_mlir.match.axes import Axis, AxisSpace, View
from zenith_mlir.match.chains import between
from zenith_mlir.match.nomatch import NoMatch

__all__ = ["Kept", "NoMatch", "Softmax", "find_softmax", "reduction"]


@dataclass(frozen=True)
class Kept:
    """Where `predicate`, over the logits' dimensions, says so (`negated`: where it does not), probabilities stay;
    elsewhere they are 0.
    """

    op: ir.Operation
    predicate: ir.Value
    negated: bool


@dataclass
class Softmax:
    """softmax of `logits` along `axis`.

    `view` names the dimensions of `logits` and of the results; `probabilities` are the values e / sum(e); `ops` are the
    operations between. With a `sink`, one more logit takes part in the sum and in nothing else; `sink_view` names its
    dimensions, which are those of a row. With `deferred`, `probabilities` lack the division by the sum: it comes after
    the product with the values. With `normalised`, `probabilities` are an exponential themselves, equal to these
    exponentials over their sum. `guarded` says that 0 stands in for an infinite maximum (`Shifted.guarded`).
    """

    logits: ir.Value
    probabilities: ir.Value
    view: View
    axis: Axis
    space: AxisSpace
    ops: list[ir.Operation]
    sink: ir.Value | None = field(default=None)
    sink_view: View = ()
    kept: Kept | None = None
    deferred: Deferred | None = None
    normalised: ir.Value | None = None
    guarded: bool = False

    @property
    def block(self) -> ir.Block:
        """Where the softmax is computed; an attention lies in one block."""
        return producer(self.probabilities).block


def find_softmax(exponential: ir.Operation) -> Softmax | None:
    """The softmax whose exponentials `exponential` computes; None where these are not normalised by their own sum.

    Raises: NoMatch if they are, but the result is not a softmax.
    """
    for row_sum in row_sums(exponential):
        divisions = quotients(row_sum)
        found = _divided(row_sum, divisions) if divisions else None
        if found is None and is_deferred(row_sum):
            found = _deferred(row_sum)
        if found is not None:
            return found
    logarithm = find_logarithm(exponential)
    return None if logarithm is None else _exponentiated(exponential, logarithm)


@dataclass(frozen=True)
class _Axes:
    """The dimensions of the exponentials, named."""

    space: AxisSpace
    view: View
    axis: Axis


def _axes(row_sum: RowSum) -> _Axes | None:
    """None for a sum of one element.

    Raises: NoMatch for a sum over several dimensions.
    """
    dims, sizes = int_list(row_sum.total, "dimensions"), shape(row_sum.exponential.results[0])
    if len(dims) != 1:
        raise NoMatch(row_sum.total, f"the softmax runs over {len(dims)} dimensions at once", "reshape them into one")
    if sizes[dims[0]] == 1:
        return None
    space = AxisSpace()
    view = space.fresh_view(sizes)
    (axis,) = view[dims[0]]
    space.keep_whole([axis])
    return _Axes(space, view, axis)


def _divided(row_sum: RowSum, divisions: list[Quotient]) -> Softmax | None:
    """The softmax whose probabilities are one of `divisions`."""
    axes = _axes(row_sum)
    if axes is None:
        return None
    space, view, axis = axes.space, axes.view, axes.axis
    found = normalised(space, row_sum, divisions, view, view, axis)
    if found is None:
        return None
    quotient, sink = found
    # A sink is relative to the shift that it shares, and to no other.
    shifted = strip_shifts(space, row_sum.exponential, view, axis, at_most=2 if sink is None else 1)
    shifted.check(None if sink is None else sink.value)
    require_hidden(row_sum, shifted.logits)
    stops = {row_sum.exponential.results[0], *([] if sink is None else [sink.value])}
    ops = [*shifted.ops, row_sum.exponential, *between(stops, quotient.op), row_sum.total]
    softmax = Softmax(shifted.logits, quotient.op.results[0], view, axis, space, ops, guarded=shifted.guarded)
    if sink is None:
        return without_sink_column(softmax)
    softmax.sink, softmax.sink_view = sink.value, sink.view
    return softmax


def _deferred(row_sum: RowSum) -> Softmax | None:
    """The softmax whose division by the sum comes later."""
    axes = _axes(row_sum)
    if axes is None:
        return None
    space, view, axis = axes.space, axes.view, axes.axis
    # Which sink there is, the division tells; one in the sum allows one shift only.
    shifted = strip_shifts(space, row_sum.exponential, view, axis, at_most=1)
    require_hidden(row_sum, shifted.logits)
    ops = [*shifted.ops, row_sum.exponential, *([] if row_sum.mask is None else [row_sum.mask]), row_sum.total]
    deferred = Deferred(row_sum, shifted, view, axis)
    softmax = Softmax(shifted.logits, row_sum.weights[0], view, axis, space, ops, deferred=deferred)
    softmax.guarded = shifted.guarded
    return without_sink_column(softmax)


def _exponentiated(exponential: ir.Operation, found: Logarithm) -> Softmax | None:
    """The softmax of which `exponential` takes the logarithm back."""
    row_sum = found.row_sum
    axes = _axes(row_sum)
    if axes is None:
        return None
    space, view, axis = axes.space, axes.view, axes.axis
    check_logarithm(space, found, view, axis)
    shifted = strip_shifts(space, row_sum.exponential, view, axis, at_most=2)
    shifted.check(None)
    require_hidden(row_sum, shifted.logits)
    stops = {shifted.logits, row_sum.exponential.results[0], *(op.results[0] for op in shifted.ops)}
    ops = [*shifted.ops, row_sum.exponential, *between(stops, exponential, subtrahends=True)]
    mask = found.mask
    kept = None if mask is None else Kept(mask, mask.operands[0], found.keeps_where_false)
    softmax = Softmax(
        shifted.logits, exponential.results[0], view, axis, space, ops, kept=kept, guarded=shifted.guarded
    )
    if kept is not None:
        return softmax
    softmax.normalised = row_sum.exponential.results[0]
    return without_sink_column(softmax)
