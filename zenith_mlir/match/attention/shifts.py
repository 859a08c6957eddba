"""Subtracting the row maximum: a softmax is invariant under shifts that are constant along its axis."""

from __future__ import annotations

from dataclasses import dataclass

from jaxlib.mlir import ir

from zenith_mlir.ir.facts import SHAPE_OPS, defined_by, defining_op, int_list, producer, reduction, splat
from zenith_mlir.match.axes import Axis, AxisSpace, View, operand_view
from zenith_mlir.match.chains import same_rows, through_convert_to
from zenith_mlir.match.nomatch import NoMatch


@dataclass(frozen=True)
class Shifted:
    """`ops` subtract from `logits` the maximum of each row and of `others`, where these are no part of the row."""

    logits: ir.Value
    ops: list[ir.Operation]
    others: tuple[ir.Value, ...]

    @property
    def guarded(self) -> bool:
        """Whether 0 stands in for an infinite maximum. A row with +inf then is NaN there and 0 elsewhere, not NaN
        everywhere.
        """
        return any(op.name == "stablehlo.is_finite" for op in self.ops)

    def check(self, sink: ir.Value | None) -> None:
        """Raises: NoMatch if the maximum is of more than the logits and the `sink`, or not of the sink too."""
        known = [] if sink is None else [source(sink)]
        if any(other not in known for other in self.others):
            raise _without_maximum(self.ops[-1])
        if sink is not None and source(sink) not in self.others:
            raise NoMatch(
                self.ops[-1],
                "the maximum leaves out the attention sink, whose exponential may overflow",
                "subtract jnp.maximum(row maximum, sink)",
            )


def strip_shifts(space: AxisSpace, exponential: ir.Operation, view: View, axis: Axis, at_most: int) -> Shifted:
    """Drop `- row maximum` from what is exponentiated; at least one maximum is required.

    It must be the maximum of what it is subtracted from: any other shift leaves the same quotients in exact arithmetic,
    but a row far below it has only zeros to divide by their sum.
    """
    value = exponential.operands[0]
    ops: list[ir.Operation] = []
    others: tuple[ir.Value, ...] = ()
    while at_most > 0 and (op := through_convert_to(value, "stablehlo.subtract")) is not None:
        at_most -= 1
        found = _Maximum(space, op.operands[0], view, axis).above(op.operands[1], view)
        if found is None:
            break
        converts = [] if value == op.results[0] else [producer(value)]
        ops += [*converts, op, *found.ops]
        others += found.others
        value = op.operands[0]
    if not ops:
        raise _without_maximum(exponential)
    return Shifted(value, list(reversed(ops)), others)


def _without_maximum(op: ir.Operation) -> NoMatch:
    return NoMatch(
        op,
        "the exponentials are normalised without subtracting the row maximum first",
        "use jax.nn.softmax, which cannot overflow",
    )


def source(value: ir.Value) -> ir.Value:
    """Where `value` comes from, up through shape operations."""
    while (op := defining_op(value)) is not None and op.name in SHAPE_OPS:
        value = op.operands[0]
    return value


@dataclass(frozen=True)
class _Found:
    ops: tuple[ir.Operation, ...] = ()
    others: tuple[ir.Value, ...] = ()

    def below(self, *ops: ir.Operation, others: tuple[ir.Value, ...] = ()) -> _Found:
        return _Found((*ops, *self.ops), (*others, *self.others))


@dataclass(frozen=True)
class _Maximum:
    """The maximum of `logits`, whose dimensions run over `view`, along `axis`."""

    space: AxisSpace
    logits: ir.Value
    view: View
    axis: Axis

    def above(self, value: ir.Value, view: View | None) -> _Found | None:
        """The way up from `value`, with dimensions over `view`, to the maximum; None if it is not that."""
        op = defining_op(value)
        if op is None or view is None:
            return None
        if reduction(op) == "stablehlo.maximum":
            return _Found((op,)) if self._is(op, view) else None
        if op.name == "stablehlo.maximum":
            return self._with_another(op, view)
        if op.name == "stablehlo.select":
            # max if is_finite(max) else 0: the guard of jax.nn.softmax and logsumexp
            guard = defined_by(op.operands[0], "stablehlo.is_finite")
            if guard is None or guard.operands[0] != op.operands[1] or splat(op.operands[2]) != 0:
                return None
            found = self.above(op.operands[1], view)
            return None if found is None else found.below(op, guard)
        inner = operand_view(self.space, op, view)
        found = None if inner is None else self.above(op.operands[0], inner)
        return None if found is None else found.below(op)

    def _with_another(self, op: ir.Operation, view: View) -> _Found | None:
        """max(row maximum, sink), which the sum has to have too."""
        for own in (0, 1):
            found = self.above(op.operands[own], view)
            if found is not None:
                return found.below(op, others=(source(op.operands[1 - own]),))
        return None

    def _is(self, reduce: ir.Operation, view: View) -> bool:
        dims = int_list(reduce, "dimensions")
        if len(dims) != 1 or splat(reduce.operands[1]) != float("-inf"):
            return False
        whole = (*view[: dims[0]], (self.axis,), *view[dims[0] :])
        return same_rows(self.space, (reduce.operands[0], whole), (self.logits, self.view))
