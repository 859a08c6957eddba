"""Steps as found become steps of the composite: masks are read as bands where that is proven, other values become
operands.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
from jaxlib.mlir import ir

from zenith_mlir.canonical.splats import numpy_dtype
from zenith_mlir.dialects.attention import Step
from zenith_mlir.ir.facts import SHAPE_OPS, defined_by, defining_op, element_type, splat
from zenith_mlir.match.attention.logits import RawStep
from zenith_mlir.match.attention.operands import Operand, absorb_modifier
from zenith_mlir.match.attention.softmax import Softmax
from zenith_mlir.match.axes import Axis, AxisSpace, operand_view
from zenith_mlir.match.masks import recover
from zenith_mlir.match.nomatch import NoMatch


class StepReader:
    """Reads raw steps in order.

    `modifiers` collects the operands met (role 3 is the first), `ops` the operations absorbed on the way to them;
    `roles` says which role plays the operand of a raw step, by its position, where that is an operand still.
    `rows` is the query axis; a band between the columns and another axis of `query_axes` makes that the query axis.
    """

    def __init__(
        self, softmax: Softmax, scores: Iterable[ir.Operation], rows: Axis | None, query_axes: set[Axis]
    ) -> None:
        self.modifiers: list[Operand] = []
        self.ops: list[ir.Operation] = []
        self.roles: dict[int, int] = {}
        self.rows = rows
        self._softmax, self._space = softmax, softmax.space
        self._scores, self._query_axes = set(scores), query_axes
        self._banded = False

    def read(self, raw: Sequence[RawStep]) -> list[Step]:
        """Raises: NoMatch where a step takes the scores themselves as its other operand."""
        # A mask that also zeroes probabilities stays one operand: read as a band here, it would have to be read so
        # there too.
        shared = {step.operand for step in raw if step.kind.startswith("post_")}
        steps: list[Step] = []
        for i, found in enumerate(raw):
            read = self._read(found, shared)
            steps += read
            if len(read) == 1 and read[0].operand is not None:
                self.roles[i] = read[0].operand
        return steps

    def _read(self, raw: RawStep, shared: set[ir.Value | None]) -> list[Step]:
        if raw.operand is None:
            return [Step(raw.kind, value=raw.value)]
        mask = raw if raw.kind == "select" else _additive_mask(self._space, raw)
        if mask is not None and mask.operand not in shared:
            bands = self._bands(mask, raw)
            if bands is not None:
                return bands
        return [self._with_operand(raw, Operand(raw.operand, raw.view), raw.negated)]

    def _bands(self, mask: RawStep, raw: RawStep) -> list[Step] | None:
        """A mask as bands and residue; None if it has no band. An added mask must be one band alone: its fill is added
        once.
        """
        assert mask.operand is not None
        read = recover(self._space, mask.operand, mask.view, self._softmax.axis, mask.negated)
        rows = {band.row for band in read.bands}
        if read.never or len(rows) != 1 or not rows <= self._query_axes:
            return None
        if self._banded and rows != {self.rows}:
            return None
        additive = raw.kind != "select"
        if additive and (read.residue or len(read.bands) > 1):
            return None
        (self.rows,), self._banded = rows, True
        kind = "band_add" if additive else "band"
        lows = [band.low for band in read.bands if band.low is not None]
        highs = [band.high for band in read.bands if band.high is not None]
        steps = [Step(kind, mask.value, low=max(lows, default=None), high=min(highs, default=None))]
        return steps + [self._with_operand(raw, Operand(t.value, t.view), t.negated) for t in read.residue]

    def _with_operand(self, raw: RawStep, operand: Operand, negated: bool) -> Step:
        absorbed = absorb_modifier(self._space, operand, self._softmax.block)
        for value in (operand.value, absorbed.operand.value):
            source = defining_op(value)
            if source is not None and source in self._scores:
                raise NoMatch(raw.op, "the probabilities or logits are combined with themselves")
        self.ops += absorbed.ops
        return Step(raw.kind, raw.value, 3 + self._number_of(absorbed.operand), negated)

    def _number_of(self, operand: Operand) -> int:
        view = self._space.resolve_view(operand.view)
        for i, known in enumerate(self.modifiers):
            if known.value == operand.value and self._space.resolve_view(known.view) == view:
                return i
        self.modifiers.append(operand)
        return len(self.modifiers) - 1


def _additive_mask(space: AxisSpace, raw: RawStep) -> RawStep | None:
    """The mask behind `x + select(m, 0, fill)`, repeated or transposed on its way, as a select step."""
    if raw.kind != "add" or raw.operand is None:
        return None
    value, view = raw.operand, raw.view
    rounded: list[ir.Type] = []
    while (op := defining_op(value)) is not None and op.name in SHAPE_OPS:
        inner = operand_view(space, op, view)
        if inner is None:
            return None
        rounded.insert(0, element_type(op.results[0]))
        value, view = op.operands[0], inner
    select = defined_by(value, "stablehlo.select")
    if select is None:
        return None
    predicate, on_true, on_false = select.operands
    numbers = (splat(on_true), splat(on_false))
    for fill, zero, negated in ((numbers[1], numbers[0], False), (numbers[0], numbers[1], True)):
        if zero == 0 and fill is not None:
            return RawStep("select", select, _rounded(float(fill), rounded), predicate, view, negated)
    return None


def _rounded(fill: float, types: list[ir.Type]) -> float:
    """`fill` after conversions to each of `types`: -1e9 is -inf in float16."""
    with np.errstate(over="ignore"):
        for type_ in types:
            dtype = numpy_dtype(type_)
            fill = fill if dtype is None else float(np.asarray(fill).astype(dtype))
    return fill
