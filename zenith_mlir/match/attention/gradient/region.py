"""What a program makes of the exponentials of a softmax: values of the logits' extent, and who uses them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from jaxlib.mlir import ir

from zenith_mlir.ir.facts import SHAPE_OPS, has_static_shape, int_list, shape, users
from zenith_mlir.match.attention.gradient.sink import Sink
from zenith_mlir.match.axes import Axis, AxisSpace, View, axes_of, result_view

_ELEMENTWISE = frozenset(
    [
        "stablehlo.add", "stablehlo.subtract", "stablehlo.multiply", "stablehlo.divide", "stablehlo.negate",
        "stablehlo.select", "stablehlo.convert", "stablehlo.maximum", "stablehlo.minimum", "stablehlo.tanh",
        "stablehlo.exponential", "stablehlo.log", "stablehlo.power",
        "stablehlo.reduce_precision",
    ]
)  # fmt: skip


@dataclass(frozen=True)
class Use:
    """`op` takes `value`, which has the view `view`, as its operand `index`, and gives something of another extent."""

    op: ir.Operation
    index: int
    value: ir.Value
    view: View


@dataclass
class Region:
    """Values of the logits' extent that follow from values of that extent, with their views, and their other uses."""

    views: dict[ir.Value, View] = field(default_factory=dict)
    uses: list[Use] = field(default_factory=list)


def downstream(
    space: AxisSpace,
    values: Sequence[ir.Value],
    view: View,
    block: ir.Block,
    large: set[Axis],
    sink: Sink | None = None,
) -> Region:
    """Follow `values`, which all have the view `view`, through elementwise operations and shape operations that keep
    all axes in `large`; past the column of a `sink`.
    """
    region = Region(dict.fromkeys(values, view))
    frontier = list(values)
    while frontier:
        current = frontier.pop()
        known = region.views[current]
        for op in users(current):
            moved = _moved(space, op, current, known, sink) if op.block == block else None
            if moved is None or not large <= axes_of(space.resolve_view(moved)):
                indices = (i for i, operand in enumerate(op.operands) if operand == current)
                region.uses += [Use(op, i, current, known) for i in indices]
            elif op.results[0] not in region.views:
                region.views[op.results[0]] = moved
                frontier.append(op.results[0])
    return region


def _moved(space: AxisSpace, op: ir.Operation, value: ir.Value, view: View, sink: Sink | None) -> View | None:
    """The view of the result of `op`, which uses `value`; None where its dimensions are not those of `value`."""
    if len(op.results) != 1 or not has_static_shape(op.results[0]):
        return None
    if sink is not None and (sink.slices(op) == "main" or sink.pads(op)):
        return view
    if op.name in SHAPE_OPS and op.name != "stablehlo.convert":
        return result_view(space, op, view)
    if op.name in _ELEMENTWISE:
        return view if shape(op.results[0]) == shape(value) else None
    return None


def reduced_view(op: ir.Operation, view: View) -> View:
    """The view of the result of a reduce whose operand has `view`."""
    dims = int_list(op, "dimensions")
    return tuple(axes for i, axes in enumerate(view) if i not in dims)
