"""Softmax along one dimension: exp(x - max x) / sum(exp(x - max x))."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from jaxlib.mlir import ir

from zenith_mlir.ir.facts import defined_by, defining_op, int_list, is_float_convert, producer, shape, splat, users
from zenith_mlir.match.axes import Axis, AxisSpace, View, axes_of, operand_view


class NoMatch(Exception):
    """Something resembles the pattern and is not it. `reason` says why in a user's words, `op` where, `suggest` what to
    change.
    """

    def __init__(self, op: ir.Operation, reason: str, suggest: str = "") -> None:
        super().__init__(reason)
        self.op, self.reason, self.suggest = op, reason, suggest


@dataclass
class Softmax:
    """softmax of `logits` along `axis`.

    `view` names the dimensions of `logits` and of the results; `probabilities` are the values e / sum(e); `ops` are the
    operations between. With a `sink`, one more logit takes part in the sum and in nothing else; `sink_view` names its
    dimensions, which are those of a row.
    """

    logits: ir.Value
    probabilities: ir.Value
    view: View
    axis: Axis
    space: AxisSpace
    ops: list[ir.Operation]
    sink: ir.Value | None = field(default=None)
    sink_view: View = ()

    @property
    def block(self) -> ir.Block:
        """Where the softmax is computed; an attention lies in one block."""
        return producer(self.probabilities).block


def reduction(op: ir.Operation) -> str | None:
    """The name of the one binary operation that a stablehlo.reduce of one operand applies, e.g. "stablehlo.add"."""
    if op.name != "stablehlo.reduce" or len(op.operands) != 2:
        return None
    body = [inner.operation.name for inner in op.regions[0].blocks[0].operations]
    return body[0] if len(body) == 2 else None


def find_softmax(exponential: ir.Operation) -> Softmax | None:
    """The softmax whose exponentials `exponential` computes; None where these are not normalised by their own sum.

    Raises: NoMatch if they are, but the result is not a softmax.
    """
    weights = exponential.results[0]
    total = _sum_of(weights)
    if total is None:
        return None
    dims = int_list(total, "dimensions")
    quotients = _quotients(weights, total)
    if not quotients:
        return None
    if len(dims) != 1:
        raise NoMatch(total, f"the softmax runs over {len(dims)} dimensions at once", "reshape them into one")
    if shape(weights)[dims[0]] == 1:
        return None
    space = AxisSpace()
    view = space.fresh_view(shape(weights))
    (axis,) = view[dims[0]]
    space.keep_whole([axis])
    found = _normalised(space, exponential, quotients, total, view, axis)
    if found is None:
        return None
    quotient, sink, sink_view = found
    # A sink is relative to the shift that it shares, and to no other.
    logits, shift_ops = _strip_shifts(space, exponential, view, axis, at_most=2 if sink is None else 1)
    ops = [*shift_ops, exponential, *_between(weights, quotient, sink), total]
    softmax = Softmax(logits, quotient.results[0], view, axis, space, ops, sink, sink_view)
    return softmax if sink is not None else _without_sink_column(softmax)


def _without_sink_column(softmax: Softmax) -> Softmax:
    """A column that is concatenated to the logits and sliced off the probabilities is an attention sink (Xiao et al.
    2023, "Efficient Streaming Language Models with Attention Sinks"; gpt-oss learns it).
    """
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


def _through_converts(value: ir.Value) -> ir.Value:
    while (op := defining_op(value)) is not None and is_float_convert(op):
        value = op.operands[0]
    return value


def _direct_and_converted_users(value: ir.Value) -> list[ir.Operation]:
    found = users(value)
    converted = [user for op in found if is_float_convert(op) for user in users(op.results[0])]
    return found + converted


def _sum_of(weights: ir.Value) -> ir.Operation | None:
    for op in _direct_and_converted_users(weights):
        if reduction(op) == "stablehlo.add" and splat(op.operands[1]) == 0:
            return op
    return None


def _quotients(weights: ir.Value, total: ir.Operation) -> list[ir.Operation]:
    """Divisions of the weights, or products with them, by something that depends on their sum; divisions first."""
    found = []
    for op in _direct_and_converted_users(weights):
        for own in _QUOTIENT_OPERANDS.get(op.name, ()):
            if _through_converts(op.operands[own]) == weights and _descends(op.operands[1 - own], total):
                found.append(op)
    return sorted(found, key=lambda op: op.name)


_QUOTIENT_OPERANDS = {"stablehlo.divide": (0,), "stablehlo.multiply": (0, 1)}


def _descends(value: ir.Value, ancestor: ir.Operation) -> bool:
    """Whether `ancestor` is among the operations close above `value`."""
    frontier, seen = [value], 0
    while frontier and seen < 32:
        op = defining_op(frontier.pop(0))
        seen += 1
        if op is not None:
            if op == ancestor:
                return True
            frontier.extend(op.operands)
    return False


def _normalised(
    space: AxisSpace,
    exponential: ir.Operation,
    quotients: list[ir.Operation],
    total: ir.Operation,
    view: View,
    axis: Axis,
) -> tuple[ir.Operation, ir.Value | None, View] | None:
    """The quotient that divides by the sum, and the sink in that sum if there is one. A derivative multiplies the
    weights by other functions of the sum.
    """
    failure: NoMatch | None = None
    for quotient in quotients:
        try:
            return quotient, *_check_normaliser(space, exponential, quotient, total, view, axis)
        except NoMatch as miss:
            if quotient.name == "stablehlo.divide":
                failure = failure or miss
    if failure is not None:
        raise failure
    return None


def _check_normaliser(
    space: AxisSpace, exponential: ir.Operation, quotient: ir.Operation, total: ir.Operation, view: View, axis: Axis
) -> tuple[ir.Value | None, View]:
    """The weights must be divided by, or multiplied by one over, their sum, standing where its rows are.

    Returns: the logit of a sink, whose exponential is added to the sum, and its view; (None, ()) without one.
    """
    weights = _through_converts(total.operands[0])
    value = next((v for v in quotient.operands if _through_converts(v) != weights), quotient.operands[1])
    reciprocals = 0 if quotient.name == "stablehlo.divide" else 1
    current: View | None = view
    sink: tuple[ir.Value | None, View] = (None, ())
    while (op := defining_op(value)) is not None and op != total and current is not None:
        if op.name == "stablehlo.divide" and splat(op.operands[0]) == 1 and reciprocals:
            reciprocals -= 1
            value = op.operands[1]
        elif op.name == "stablehlo.add" and sink[0] is None:
            value, sink = _split_sink(space, op, exponential, total, current, view)
        elif op.name in _SHAPE_OPS:
            current = operand_view(space, op, current)
            value = op.operands[0]
        else:
            raise NoMatch(op, f"the softmax is normalised by more than its own sum ({_short(op)} on the denominator)")
    rows = tuple(dim for dim in view if dim != (axis,))
    if reciprocals or current is None or space.resolve_view(current) != rows:
        raise NoMatch(
            quotient,
            "the softmax divides each element by the sum of another row",
            "keep the summed dimension in place",
        )
    return sink


def _split_sink(
    space: AxisSpace, op: ir.Operation, exponential: ir.Operation, total: ir.Operation, view: View, rows: View
) -> tuple[ir.Value, tuple[ir.Value, View]]:
    """`sum + exp(sink - shift)` with the shift of the logits: the sum, and the sink with its view.

    `view` is that of the sum, `rows` that of the logits.
    """
    for own, other in ((0, 1), (1, 0)):
        if _read_up(space, op.operands[own], view)[0] != total.results[0]:
            continue
        value, current = _read_up(space, op.operands[other], view)
        exp = defined_by(value, "stablehlo.exponential")
        shifted = None if exp is None else defined_by(exp.operands[0], "stablehlo.subtract")
        ours = _through_convert_to(exponential.operands[0], "stablehlo.subtract")
        if shifted is None or ours is None or current is None:
            continue
        theirs_from, theirs_view = _read_up(space, shifted.operands[1], current)
        ours_from, ours_view = _read_up(space, ours.operands[1], rows)
        if theirs_view is None or ours_view is None or theirs_from != ours_from:
            continue
        if space.resolve_view(theirs_view) == space.resolve_view(ours_view):
            return op.operands[own], (shifted.operands[0], current)
    raise NoMatch(op, "the softmax is normalised by more than its own sum (add on the denominator)")


def _read_up(space: AxisSpace, value: ir.Value, view: View | None) -> tuple[ir.Value, View | None]:
    """Where `value` comes from, up through shape operations, with its view."""
    while (op := defining_op(value)) is not None and op.name in _SHAPE_OPS and view is not None:
        view = operand_view(space, op, view)
        value = op.operands[0]
    return value, view


_SHAPE_OPS = ("stablehlo.broadcast_in_dim", "stablehlo.reshape", "stablehlo.transpose", "stablehlo.convert")


def _strip_shifts(
    space: AxisSpace, exponential: ir.Operation, view: View, axis: Axis, at_most: int
) -> tuple[ir.Value, list[ir.Operation]]:
    """Drop `- row maximum` (softmax is invariant under shifts that are constant along its axis); at least one maximum
    is required.
    """
    value, has_maximum = exponential.operands[0], False
    ops: list[ir.Operation | None] = []
    while at_most > 0 and (op := _through_convert_to(value, "stablehlo.subtract")) is not None:
        at_most -= 1
        chain = _row_constant(space, op.operands[1], view, axis)
        if chain is None:
            break
        has_maximum = has_maximum or any(reduction(link) == "stablehlo.maximum" for link in chain)
        ops += [op, *chain] if value == op.results[0] else [defining_op(value), op, *chain]
        value = op.operands[0]
    if not has_maximum:
        raise NoMatch(
            exponential,
            "the exponentials are normalised without subtracting the row maximum first",
            "use jax.nn.softmax, which cannot overflow",
        )
    return value, [op for op in reversed(ops) if op is not None]


def _through_convert_to(value: ir.Value, name: str) -> ir.Operation | None:
    op = defining_op(value)
    if op is not None and is_float_convert(op):
        op = defining_op(op.operands[0])
    return op if op is not None and op.name == name else None


def _row_constant(space: AxisSpace, value: ir.Value, view: View | None, axis: Axis) -> list[ir.Operation] | None:
    """The operations from a reduction along `axis` to `value`, if `value` does not vary along it; None if it does."""
    op = defining_op(value)
    if op is None or view is None:
        return None
    varies = axis in axes_of(space.resolve_view(view))
    if reduction(op) is not None:
        return None if varies else [op]
    if op.name == "stablehlo.maximum" and not varies:
        # max(row maximum, sink)
        chains = (_row_constant(space, operand, view, axis) for operand in op.operands)
        return next(([op, *chain] for chain in chains if chain is not None), None)
    if op.name == "stablehlo.select":
        # max if is_finite(max) else 0: the guard of jax.nn.softmax and logsumexp
        guard = defined_by(op.operands[0], "stablehlo.is_finite")
        if guard is None or guard.operands[0] != op.operands[1] or splat(op.operands[2]) != 0:
            return None
        chain = _row_constant(space, op.operands[1], view, axis)
        return None if chain is None else [op, guard, *chain]
    inner = operand_view(space, op, view)
    chain = None if inner is None else _row_constant(space, op.operands[0], inner, axis)
    return None if chain is None else [op, *chain]


def _between(weights: ir.Value, quotient: ir.Operation, sink: ir.Value | None) -> list[ir.Operation]:
    """Operations from the weights, and the sink, to the quotient, the divisor's included."""
    found: list[ir.Operation] = [quotient]
    stops = {weights} if sink is None else {weights, sink}
    frontier = list(quotient.operands)
    while frontier:
        value = frontier.pop()
        op = defining_op(value)
        if op is None or value in stops or op in found or op.name == "stablehlo.constant":
            continue
        found.append(op)
        # The shift of the sink is the row maximum, which belongs to the logits.
        frontier.extend(op.operands[:1] if op.name == "stablehlo.subtract" else op.operands)
    return found


def _short(op: ir.Operation) -> str:
    return op.name.removeprefix("stablehlo.").removeprefix("chlo.")
