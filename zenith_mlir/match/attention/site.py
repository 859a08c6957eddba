"""One attention: from a softmax down to the product with the values and up to the product of queries and keys."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from jaxlib.mlir import ir

from zenith_mlir.canonical.rules import MARKS
from zenith_mlir.dialects.attention import AttentionSpec
from zenith_mlir.dialects.layout import Layout
from zenith_mlir.ir.cones import cone
from zenith_mlir.ir.facts import producer, shape, users
from zenith_mlir.match.attention.logits import RawStep
from zenith_mlir.match.attention.operands import Absorbed, Operand, absorb, absorb_result
from zenith_mlir.match.attention.products import ScoreProduct, ValueProduct, find_score_product, find_value_product
from zenith_mlir.match.attention.softmax import Softmax
from zenith_mlir.match.attention.steps import StepReader
from zenith_mlir.match.axes import Axis, axes_of
from zenith_mlir.match.constants import EXACT_OPS
from zenith_mlir.match.nomatch import NoMatch


@dataclass(frozen=True)
class Anatomy:
    """What a matched attention is made of, for those who match more around it.

    `raw` are the steps as found; `roles` gives the role that plays the operand of a raw step, by its position; `names`
    are the axes of `spec`.
    """

    softmax: Softmax
    scores: ScoreProduct
    values: ValueProduct
    q: Absorbed
    k: Absorbed
    v: Absorbed
    raw: tuple[RawStep, ...]
    roles: dict[int, int]
    names: dict[Axis, str]


@dataclass(frozen=True)
class Site:
    """A matched attention: `ops` compute `result` from `operands` and constants, as `spec` says.

    Where a gradient computes the probabilities anew there may be no result: `ops` end with them.
    """

    spec: AttentionSpec
    ops: list[ir.Operation]
    operands: list[ir.Value]
    result: ir.Value | None
    anatomy: Anatomy


def match_site(softmax: Softmax) -> Site | None:
    """The attention around `softmax`; None if nothing suggests that it is one.

    Raises: NoMatch with the reason at the deepest point reached.
    """
    values = find_value_product(softmax)
    return None if values is None else site_of(softmax, values)


def site_of(softmax: Softmax, values: ValueProduct) -> Site:
    """The attention between `softmax` and its product with the values.

    Raises: NoMatch with the reason at the deepest point reached.
    """
    scores = find_score_product(softmax, values)
    features = _feature_axes(softmax, values)
    softmax.space.keep_whole([*({scores.rows} - {None}), *features, *scores.contracted])  # type: ignore[list-item]

    query_axes = _query_axes(softmax, scores, values)
    # Any of them may turn out to be the row axis once the masks are read.
    softmax.space.keep_whole(query_axes)

    q = absorb(softmax.space, scores.queries, softmax.block, scaling=True)
    k = absorb(softmax.space, scores.keys, softmax.block, scaling=True)
    v = absorb(softmax.space, values.values, softmax.block, scaling=False)
    out = _out(softmax, values)
    large = [*softmax.ops, *scores.path.ops, *values.ops]

    scale = q.scale * k.scale
    scaling = [RawStep("scale", scores.path.dot, value=scale)] if scale != 1.0 else []
    raw = (*scaling, *scores.path.steps, *_softmax_steps(softmax), *values.steps)
    reader = StepReader(softmax, large, scores.rows, query_axes)
    steps = reader.read(raw)

    inputs = [q.operand, k.operand, v.operand, *reader.modifiers]
    names = _names(softmax, inputs, reader.rows, scores.contracted, features)
    matched = [*large, *q.ops, *k.ops, *v.ops, *out.ops, *reader.ops]
    ops = needed([out.operand.value], {operand.value for operand in inputs}, matched)
    refuse_marked(ops)
    operands = list(dict.fromkeys(operand.value for operand in inputs))

    def layout(operand: Operand) -> Layout:
        view = softmax.space.resolve_view(operand.view)
        return Layout(tuple(tuple(names[axis] for axis in dim) for dim in view))

    spec = AttentionSpec(
        axes={name: softmax.space.size(axis) for axis, name in sorted(names.items(), key=lambda item: item[1])},
        q=layout(q.operand),
        k=layout(k.operand),
        v=layout(v.operand),
        out=layout(out.operand),
        modifiers=tuple(layout(operand) for operand in reader.modifiers),
        steps=tuple(steps),
        escapes=_escapes(large, ops, out.operand.value),
        sources=tuple(operands.index(operand.value) for operand in inputs),
    )
    spec.verify([shape(value) for value in operands], spec.out.shape(spec.axes))
    anatomy = Anatomy(softmax, scores, values, q, k, v, raw, reader.roles, names)
    return Site(spec, ops, operands, out.operand.value if values.is_computed else None, anatomy)


def _out(softmax: Softmax, values: ValueProduct) -> Absorbed:
    """What the ops end with, laid out as the result."""
    result = Operand(values.result, values.out)
    return absorb_result(softmax.space, result) if values.is_computed else Absorbed(result, ())


def refuse_marked(ops: Iterable[ir.Operation]) -> None:
    for op in ops:
        for name in MARKS:
            if name in op.attributes:
                raise NoMatch(op, f"{op.name.split('.', 1)[-1]} carries {name}, which a fused call would lose")


def _softmax_steps(softmax: Softmax) -> list[RawStep]:
    """What the softmax itself adds to the sum and hides from the probabilities."""
    steps = []
    if softmax.sink is not None:
        op = producer(softmax.probabilities)
        steps.append(RawStep("sink", op, operand=softmax.sink, view=softmax.sink_view))
    if softmax.kept is not None:
        kept = softmax.kept
        steps.append(RawStep("post_select", kept.op, 0.0, kept.predicate, softmax.view, kept.negated))
    return steps


def _feature_axes(softmax: Softmax, values: ValueProduct) -> set[Axis]:
    """What the values have and the probabilities have not; at most one axis."""
    own, logits = (axes_of(softmax.space.resolve_view(view)) for view in (values.values.view, softmax.view))
    if len(own - logits) > 1:
        raise NoMatch(values.dot, "the values have several feature dimensions", "reshape them into one")
    return own - logits


def _query_axes(softmax: Softmax, scores: ScoreProduct, values: ValueProduct) -> set[Axis]:
    """Axes that only the queries have: each could be the row axis."""
    q, k, v = (axes_of(softmax.space.resolve_view(o.view)) for o in (scores.queries, scores.keys, values.values))
    return q - k - v


def _names(
    softmax: Softmax, inputs: list[Operand], rows: Axis | None, contracted: tuple[Axis, ...], features: set[Axis]
) -> dict[Axis, str]:
    """Letters for axes: t, s, d, e by role; b, h, ... for those that keys or values share, g, ... for the queries'
    own.
    """
    names: dict[Axis, str] = {softmax.axis: "s"}
    if rows is not None:
        names[rows] = "t"
    names.update((axis, f"d{i}" if i else "d") for i, axis in enumerate(contracted))
    names.update((axis, "e") for axis in features)
    _, keys, values = (axes_of(softmax.space.resolve_view(operand.view)) for operand in inputs[:3])
    rest = [axis for dim in softmax.space.resolve_view(softmax.view) for axis in dim if axis not in names]
    shared = [axis for axis in rest if axis in keys | values]
    own = [axis for axis in rest if axis not in keys | values]
    batch = ["b", *(f"b{i}" for i in range(1, len(shared) - 1))]
    names.update(zip(shared, [*batch, "h"] if len(shared) > 1 else batch, strict=False))
    names.update((axis, f"g{i}" if i else "g") for i, axis in enumerate(own))
    return names


def needed(results: Sequence[ir.Value], stops: set[ir.Value], matched: Iterable[ir.Operation]) -> list[ir.Operation]:
    """The matched operations that `results` depend on between the stops and them, producers first.

    Raises: NoMatch if they depend on something else.
    """
    allowed = set(matched)

    def enter(value: ir.Value, op: ir.Operation | None) -> bool:
        if op is None:
            culprit = producer(results[0])
            raise NoMatch(culprit, "a mask or scale depends on an argument in a way that is not understood")
        # A proven mask leaves no operand, so the arithmetic on constants that it was proven from moves along.
        if op not in allowed and op.name not in EXACT_OPS:
            raise NoMatch(op, f"{op.name.split('.', 1)[-1]} takes part in a way that is not understood")
        return op.name != "stablehlo.constant"

    return cone(results, stops, enter)


def _escapes(large: Iterable[ir.Operation], ops: Iterable[ir.Operation], result: ir.Value) -> bool:
    """Whether something between the products has users outside of the match, so that fusing does not get rid of it."""
    inside = set(ops)
    watched = [op for op in large if op in inside and op.results[0] != result]
    return any(user not in inside for op in watched for user in users(op.results[0]))
