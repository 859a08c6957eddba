"""The two products around a softmax: probabilities with values, and queries with keys."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from jaxlib.mlir import ir

from zenith_mlir.ir.dots import DotDims
from zenith_mlir.ir.facts import SHAPE_OPS, producer, users
from zenith_mlir.match.attention.deferred import divided
from zenith_mlir.match.attention.logits import Path, RawStep, first_obstacle, paths, post_step, reaches_batched_dot
from zenith_mlir.match.attention.operands import Operand
from zenith_mlir.match.attention.softmax import Softmax
from zenith_mlir.match.axes import Axis, View, axes_of, dot_operand_views, dot_other_view, result_view
from zenith_mlir.match.chains import descends
from zenith_mlir.match.nomatch import NoMatch

# Between a softmax and its product stand a dropout, a mask, some converts and transposes.
_MAX_POST_OPS = 12
_TERMINATORS = ("func.return", "stablehlo.return")


@dataclass(frozen=True)
class ValueProduct:
    """The product with the values; `ops` and `steps` lie between the probabilities and it, `ops` includes it and what
    leads to `result`: a division by the sum may come after it. If it is not computed, `result` is what it would
    multiply, and `dot` the gradient that takes that.
    """

    dot: ir.Operation
    values: Operand
    out: View
    ops: tuple[ir.Operation, ...]
    steps: tuple[RawStep, ...]
    result: ir.Value
    is_computed: bool = True


@dataclass(frozen=True)
class ScoreProduct:
    """The product of queries and keys; `path` leads from it to the logits. `rows` is the query axis, if there is
    one.
    """

    path: Path
    queries: Operand
    keys: Operand
    contracted: tuple[Axis, ...]
    rows: Axis | None


def find_value_product(softmax: Softmax) -> ValueProduct | None:
    """Follow the probabilities to a dot_general that contracts the softmax axis.

    None where nothing suggests attention: the logits do not come from a product with batch dimensions.

    Raises: NoMatch where that does suggest attention.
    """
    failure: NoMatch | None = None
    for product in _value_products(softmax):
        if isinstance(product, ValueProduct):
            return product
        failure = failure or product
    if not reaches_batched_dot(softmax.logits, softmax.block):
        return None
    raise failure or NoMatch(producer(softmax.probabilities), "the probabilities do not go into a product with values")


@dataclass(frozen=True)
class WeightedUse:
    """`dot` takes the probabilities, after `steps`, as its operand `index`, whose view is `view`; `ops` lead there."""

    dot: ir.Operation
    index: int
    view: View
    ops: tuple[ir.Operation, ...]
    steps: tuple[RawStep, ...]


def weighted_uses(softmax: Softmax) -> Iterator[WeightedUse]:
    """Products that take the probabilities."""
    for found in _uses(softmax, softmax.probabilities, softmax.view, (), ()):
        if isinstance(found, WeightedUse):
            yield found


def _uses(
    softmax: Softmax, value: ir.Value, view: View, ops: tuple[ir.Operation, ...], steps: tuple[RawStep, ...]
) -> Iterator[WeightedUse | NoMatch]:
    if len(ops) > _MAX_POST_OPS:
        return
    for op in users(value):
        # Where the division is deferred, the sum uses what goes into the product.
        if op.block != softmax.block or op.name in _TERMINATORS or op in softmax.ops:
            continue
        index = list(op.operands).index(value)
        if op.name == "stablehlo.dot_general":
            yield WeightedUse(op, index, view, ops, steps)
        elif op.name in SHAPE_OPS:
            moved = result_view(softmax.space, op, view)
            if moved is not None:
                yield from _uses(softmax, op.results[0], moved, (*ops, op), steps)
        else:
            try:
                step = post_step(op, index, view)
            except NoMatch as failure:
                yield failure
                continue
            # p · (dp - Σ p dp) is a gradient on its way to the keys, and no attention over them.
            if step.operand is not None and descends(step.operand, producer(softmax.probabilities)):
                yield NoMatch(op, "the probabilities or logits are combined with themselves")
                continue
            yield from _uses(softmax, op.results[0], view, (*ops, op), (*steps, step))


def _value_products(softmax: Softmax) -> Iterator[ValueProduct | NoMatch]:
    for use in _uses(softmax, softmax.probabilities, softmax.view, (), ()):
        product = _value_product(softmax, use) if isinstance(use, WeightedUse) else use
        yield product if isinstance(product, NoMatch) else _normalised(softmax, product)


def _value_product(softmax: Softmax, use: WeightedUse) -> ValueProduct | NoMatch:
    dot = use.dot
    dims = DotDims.of(dot)
    mine = dims.lhs_contracting if use.index == 0 else dims.rhs_contracting
    if softmax.space.resolve(axis for i in mine for axis in use.view[i]) != (softmax.axis,):
        return NoMatch(dot, "the product after the softmax does not sum over the softmax's own axis")
    if dot.operands[0] == dot.operands[1]:
        return NoMatch(dot, "the probabilities are multiplied by themselves")
    other, out = dot_other_view(softmax.space, dot, use.index, use.view)
    operand = Operand(dot.operands[1 - use.index], other)
    return ValueProduct(dot, operand, out, (*use.ops, dot), use.steps, dot.results[0])


def _normalised(softmax: Softmax, product: ValueProduct) -> ValueProduct | NoMatch:
    """`product` with the division by the sum that is still to come, if it is."""
    if softmax.deferred is None:
        return _refuse_guarded(softmax, product) or product
    try:
        division = divided(softmax, softmax.deferred, product.dot, product.out, [step.op for step in product.steps])
    except NoMatch as failure:
        return failure
    if division.sink is not None:
        softmax.sink, softmax.sink_view = division.sink.value, division.sink.view
    whole = replace(product, out=division.view, ops=(*product.ops, *division.ops), result=division.result)
    return _refuse_guarded(softmax, whole) or whole


def _refuse_guarded(softmax: Softmax, product: ValueProduct) -> NoMatch | None:
    """With a guard, a row with +inf has a NaN there alone; what hides that, or a sink of +inf, shows the zeros beside
    it, where a softmax is NaN.
    """
    hides = softmax.kept is not None or any(step.kind == "post_select" for step in product.steps)
    if not softmax.guarded or not (hides or softmax.sink is not None):
        return None
    return NoMatch(
        product.dot,
        "the softmax guards against an infinite maximum, and a mask or sink after it may hide what is not a number",
        "use jax.nn.softmax",
    )


def find_score_product(softmax: Softmax, values: ValueProduct) -> ScoreProduct:
    """The product of queries and keys above the logits; among several, one with a query axis (a bias may be a product
    too).

    Raises: NoMatch if there is none.
    """
    found = list(paths(softmax.space, softmax.logits, softmax.view, softmax.block))
    products = [product for path in found if (product := _score_product(softmax, path)) is not None]
    if not products:
        raise _no_scores(softmax, found)
    value_axes = axes_of(softmax.space.resolve_view(values.values.view))
    path, queries, keys = max(products, key=lambda p: bool(_own_axes(p[1], p[2], value_axes)))
    logits = axes_of(softmax.space.resolve_view(path.view))
    contracted = tuple(axis for dim in keys.view for axis in dim if axis not in logits)
    if not contracted:
        raise NoMatch(path.dot, "queries and keys have one feature only")
    rows = _row_axis(softmax, path, queries, keys, value_axes)
    return ScoreProduct(path, queries, keys, contracted, rows)


def _no_scores(softmax: Softmax, found: list[Path]) -> NoMatch:
    if found:
        return NoMatch(found[0].dot, "both operands of the score product vary along the softmax axis")
    obstacle = first_obstacle(softmax.logits)
    what = "an argument" if obstacle is None else obstacle.name.split(".", 1)[-1]
    return NoMatch(
        obstacle or producer(softmax.probabilities),
        f"the logits do not come from a product of queries and keys but from {what}",
    )


def _score_product(softmax: Softmax, path: Path) -> tuple[Path, Operand, Operand] | None:
    """Queries and keys: the keys are the operand that varies along the softmax axis; exactly one must."""
    views = (softmax.space.resolve_view(v) for v in dot_operand_views(softmax.space, path.dot, path.view))
    lhs, rhs = (Operand(value, view) for value, view in zip(path.dot.operands, views, strict=True))
    is_keys = [softmax.axis in axes_of(operand.view) for operand in (lhs, rhs)]
    if is_keys[0] == is_keys[1]:
        return None
    return (path, rhs, lhs) if is_keys[0] else (path, lhs, rhs)


def _own_axes(queries: Operand, keys: Operand, value_axes: set[Axis]) -> set[Axis]:
    """Axes that only the queries have: rows, and heads that share keys and values."""
    return axes_of(queries.view) - axes_of(keys.view) - value_axes


def _row_axis(softmax: Softmax, path: Path, queries: Operand, keys: Operand, value_axes: set[Axis]) -> Axis | None:
    """The query axis: the last of the queries' own in the logits; None for a single query per batch element."""
    q, k = axes_of(queries.view), axes_of(keys.view)
    if (k & value_axes) - q - {softmax.axis}:
        raise NoMatch(
            path.dot,
            "keys and values have a batch axis that the queries lack",
            "broadcast the queries over it if this is attention",
        )
    own = _own_axes(queries, keys, value_axes)
    rows = [axis for dim in softmax.space.resolve_view(softmax.view) for axis in dim if axis in own]
    if not rows and not (q & k & value_axes):
        raise NoMatch(path.dot, "there is no query axis: one vector weighs the rows")
    return rows[-1] if rows else None
