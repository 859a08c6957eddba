"""From the logits back to the product of queries and keys: the elementwise steps in between."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from jaxlib.mlir import ir

from zenith_mlir.ir.dots import DotDims
from zenith_mlir.ir.facts import (
    SHAPE_OPS,
    Number,
    defining_op,
    element_type,
    has_static_shape,
    is_float,
    is_float_convert,
    keeps_precision,
    splat,
)
from zenith_mlir.match.axes import AxisSpace, View, operand_view
from zenith_mlir.match.nomatch import NoMatch


@dataclass(frozen=True)
class RawStep:
    """A step on the logits as found: `operand` is the other value, with its view, before anything is known about it."""

    kind: str
    op: ir.Operation
    value: float | None = None
    operand: ir.Value | None = None
    view: View = ()
    negated: bool = False


@dataclass(frozen=True)
class Path:
    """A way from the logits up to a dot_general: the steps in the order in which the program applies them."""

    dot: ir.Operation
    view: View
    steps: tuple[RawStep, ...]
    ops: tuple[ir.Operation, ...]


Link = tuple[int, RawStep | None]
# Where both operands of many sums come from products, the ways up double at each.
_MAX_PATHS = 64


def paths(space: AxisSpace, logits: ir.Value, view: View, block: ir.Block) -> Iterator[Path]:
    """Ways from `logits` up to a dot_general of the same block; of very many, the first."""
    yield from itertools.islice(_paths(space, logits, view, block, _Reach(block)), _MAX_PATHS)


def reaches_batched_dot(logits: ir.Value, block: ir.Block) -> bool:
    """Whether some way up ends at a dot_general with batch dimensions: scores, not a dense layer."""
    return _Reach(block, lambda dot: bool(DotDims.of(dot).lhs_batch))(logits)


def first_obstacle(logits: ir.Value) -> ir.Operation | None:
    """The operation at which the way up ends, if there is no dot_general: what to tell the user."""
    return defining_op(way_up(logits))


def way_up(logits: ir.Value) -> ir.Value:
    """The value at which one way up from the logits ends."""
    value = logits
    while (op := defining_op(value)) is not None:
        if op.name in SHAPE_OPS and (op.name != "stablehlo.convert" or is_float_convert(op)):
            value = op.operands[0]
            continue
        links = _links(op, ())
        if not links:
            break
        value = op.operands[links[0][0]]
    return value


class _Reach:
    """Which values of a block have a dot_general above them, along operations that a path may take."""

    def __init__(self, block: ir.Block, wanted: Callable[[ir.Operation], bool] = lambda dot: True) -> None:
        self._block, self._wanted = block, wanted
        self._known: dict[ir.Value, bool] = {}

    def __call__(self, value: ir.Value) -> bool:
        if value not in self._known:
            self._known[value] = False
            self._known[value] = self._find(value)
        return self._known[value]

    def _find(self, value: ir.Value) -> bool:
        op = defining_op(value)
        if op is None or op.block != self._block:
            return False
        if op.name == "stablehlo.dot_general":
            return self._wanted(op)
        if op.name in SHAPE_OPS:
            return self(op.operands[0])
        return any(self(op.operands[index]) for index, _ in _links(op, ()))


def _paths(space: AxisSpace, value: ir.Value, view: View, block: ir.Block, reach: _Reach) -> Iterator[Path]:
    op = defining_op(value)
    if op is None or not reach(value):
        return
    if op.name == "stablehlo.dot_general":
        yield Path(op, view, (), (op,))
        return
    if op.name in SHAPE_OPS:
        inner = operand_view(space, op, view)
        # A broadcast that repeats the logits repeats work that the product does not have: not one attention.
        if inner is not None and _keeps_all(space, inner, view):
            for path in _paths(space, op.operands[0], inner, block, reach):
                yield Path(path.dot, path.view, path.steps, (*path.ops, op))
        return
    for index, step in _links(op, view):
        for path in _paths(space, op.operands[index], view, block, reach):
            steps = path.steps if step is None else (*path.steps, step)
            yield Path(path.dot, path.view, steps, (*path.ops, op))


def _keeps_all(space: AxisSpace, inner: View, outer: View) -> bool:
    flat = [{axis for dim in space.resolve_view(view) for axis in dim} for view in (inner, outer)]
    return flat[0] == flat[1]


def _links(op: ir.Operation, view: View) -> list[Link]:
    """Operands of `op` that may carry the logits, each with the step that `op` is for it; none if `op` is not a
    step.
    """
    table = _STEPS.get(op.name)
    if table is None or not has_static_shape(op.results[0]) or not is_float(element_type(op.results[0])):
        return []
    return table(op, view)


def _binary(with_number: str, with_operand: str) -> Callable[[ir.Operation, View], list[Link]]:
    def links(op: ir.Operation, view: View) -> list[Link]:
        number = splat(op.operands[1])
        if number is not None:
            return [(0, RawStep(with_number, op, value=float(number)))]
        return [(i, RawStep(with_operand, op, operand=op.operands[1 - i], view=view)) for i in (0, 1)]

    return links


def _subtract(op: ir.Operation, view: View) -> list[Link]:
    number = splat(op.operands[1])
    if number is not None:
        return [(0, RawStep("offset", op, value=-float(number)))]
    return [(0, RawStep("subtract", op, operand=op.operands[1], view=view))]


def _divide(op: ir.Operation, view: View) -> list[Link]:
    number = splat(op.operands[1])
    if number is not None:
        return [(0, RawStep("scale", op, value=_reciprocal(number)))] if number else []
    return [(0, RawStep("divide", op, operand=op.operands[1], view=view))]


def _reciprocal(number: Number) -> float:
    return 1.0 / float(number)


def _negate(op: ir.Operation, view: View) -> list[Link]:
    return [(0, RawStep("scale", op, value=-1.0))]


def _rounding(op: ir.Operation, view: View) -> list[Link]:
    """JAX marks what a checkpoint policy saves by rounding it to what it is already."""
    return [(0, None)] if keeps_precision(op) else []


def _tanh(op: ir.Operation, view: View) -> list[Link]:
    return [(0, RawStep("tanh", op, view=view))]


def _bound(kind: str) -> Callable[[ir.Operation, View], list[Link]]:
    def links(op: ir.Operation, view: View) -> list[Link]:
        number = splat(op.operands[1])
        return [] if number is None else [(0, RawStep(kind, op, value=float(number)))]

    return links


def _select(op: ir.Operation, view: View) -> list[Link]:
    predicate = op.operands[0]
    links: list[Link] = []
    for index, negated in ((1, False), (2, True)):
        fill = splat(op.operands[3 - index])
        if fill is not None:
            # A scalar predicate selects whole tensors; it is a mask with no axes at all.
            scalar = len(ir.RankedTensorType(predicate.type).shape) == 0
            step = RawStep("select", op, float(fill), predicate, () if scalar else view, negated)
            links.append((index, step))
    return links


_STEPS: dict[str, Callable[[ir.Operation, View], list[Link]]] = {
    "stablehlo.add": _binary("offset", "add"),
    "stablehlo.multiply": _binary("scale", "multiply"),
    "stablehlo.subtract": _subtract,
    "stablehlo.divide": _divide,
    "stablehlo.negate": _negate,
    "stablehlo.tanh": _tanh,
    "stablehlo.maximum": _bound("maximum"),
    "stablehlo.minimum": _bound("minimum"),
    "stablehlo.select": _select,
    "stablehlo.reduce_precision": _rounding,
}


def post_step(op: ir.Operation, index: int, view: View) -> RawStep:
    """The step that `op` is for the probabilities at its operand `index`.

    Raises: NoMatch if `op` is no step after a softmax.
    """
    if op.name not in ("stablehlo.multiply", "stablehlo.divide", "stablehlo.select"):
        raise NoMatch(
            op, f"{op.name.removeprefix('stablehlo.')} stands between the softmax and the product with the values"
        )
    for own, step in _links(op, view):
        if own == index and step is not None and step.kind in ("scale", "multiply", "select"):
            return RawStep(f"post_{step.kind}", op, step.value, step.operand, step.view, step.negated)
    raise NoMatch(
        op, f"{op.name.removeprefix('stablehlo.')} after the softmax has no form that a fused attention keeps"
    )
