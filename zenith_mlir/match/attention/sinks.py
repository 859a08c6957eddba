"""Attention sinks (Xiao et al. 2023, "Efficient Streaming Language Models with Attention Sinks"; gpt-oss learns them):
one more logit in the sum of a row, and in nothing else.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from jaxlib.mlir import ir

from zenith_mlir.ir.facts import defined_by, int_list, is_float_convert, shape, users
from zenith_mlir.match.axes import AxisSpace, View
from zenith_mlir.match.chains import read_up, same_rows, through_convert_to
from zenith_mlir.match.nomatch import NoMatch

if TYPE_CHECKING:
    from zenith_mlir.match.attention.softmax import Softmax


def without_sink_column(softmax: Softmax) -> Softmax:
    """A column that is concatenated to the logits and sliced off the probabilities is a sink."""
    joined = defined_by(softmax.logits, "stablehlo.concatenate")
    dim = softmax.view.index((softmax.axis,))
    if joined is None or len(joined.operands) != 2 or ir.IntegerAttr(joined.attributes["dimension"]).value != dim:
        return softmax
    widths = [shape(operand)[dim] for operand in joined.operands]
    if 1 not in widths or widths == [1, 1]:
        return softmax
    sink = widths.index(1)
    kept = _slice_without(softmax.probabilities, dim, 0 if sink == 1 else 1, widths[1 - sink])
    if kept is None:
        return softmax
    space = softmax.space
    axis = space.new(widths[1 - sink])
    space.keep_whole([axis])
    view = tuple((axis,) if dim_axes == (softmax.axis,) else dim_axes for dim_axes in softmax.view)
    return replace(
        softmax,
        logits=joined.operands[1 - sink],
        probabilities=kept[-1].results[0],
        view=view,
        axis=axis,
        ops=[*softmax.ops, joined, *kept],
        sink=joined.operands[sink],
        sink_view=tuple(() if dim_axes == (softmax.axis,) else dim_axes for dim_axes in softmax.view),
    )


def _slice_without(value: ir.Value, dim: int, start: int, size: int) -> list[ir.Operation] | None:
    """The operations from `value` to a slice of it that keeps `size` elements of `dim` from `start`, all else whole."""
    for op in users(value):
        if is_float_convert(op):
            further = _slice_without(op.results[0], dim, start, size)
            if further is not None:
                return [op, *further]
        if op.name != "stablehlo.slice":
            continue
        whole = shape(value)
        starts, limits = int_list(op, "start_indices"), int_list(op, "limit_indices")
        wanted = [(start, start + size) if i == dim else (0, n) for i, n in enumerate(whole)]
        if list(zip(starts, limits, strict=True)) == wanted and set(int_list(op, "strides")) == {1}:
            return [op]
    return None


def split_sink(
    space: AxisSpace, op: ir.Operation, exponential: ir.Operation, total: ir.Operation, view: View, rows: View
) -> tuple[ir.Value, tuple[ir.Value, View]]:
    """`sum + exp(sink - shift)` with the shift of the logits: the sum, and the sink with its view.

    `view` is that of the sum, `rows` that of the logits.
    """
    for own, other in ((0, 1), (1, 0)):
        if read_up(space, op.operands[own], view)[0] != total.results[0]:
            continue
        value, current = read_up(space, op.operands[other], view)
        exp = defined_by(value, "stablehlo.exponential")
        shifted = None if exp is None else defined_by(exp.operands[0], "stablehlo.subtract")
        ours = through_convert_to(exponential.operands[0], "stablehlo.subtract")
        if shifted is None or ours is None:
            continue
        if same_rows(space, (shifted.operands[1], current), (ours.operands[1], rows)):
            return op.operands[own], (shifted.operands[0], current)
    raise NoMatch(op, "the softmax is normalised by more than its own sum (add on the denominator)")
