"""One attention: from a softmax down to the product with the values and up to the product of queries and keys."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from jaxlib.mlir import ir

from zenith_mlir.canonical.shapes import holds
from zenith_mlir.dialects.attention import AttentionSpec, Step
from zenith_mlir.dialects.layout import Layout
from zenith_mlir.ir.dots import DotDims
from zenith_mlir.ir.facts import defined_by, defining_op, element_type, has_static_shape, is_float, shape, splat, users
from zenith_mlir.match.attention.logits import SHAPE_OPS, Path, RawStep, first_obstacle, paths, post_step
from zenith_mlir.match.attention.softmax import NoMatch, Softmax
from zenith_mlir.match.axes import (
    Axis,
    AxisSpace,
    View,
    axes_of,
    dot_operand_views,
    dot_other_view,
    operand_view,
    result_view,
)
from zenith_mlir.match.constants import EXACT_OPS
from zenith_mlir.match.masks import recover


@dataclass(frozen=True)
class Site:
    """A matched attention: `ops` compute `result` from `operands` and constants, as `spec` says."""

    spec: AttentionSpec
    ops: list[ir.Operation]
    operands: list[ir.Value]
    result: ir.Value


@dataclass
class Operand:
    """A value that enters the composite, and what its dimensions run over."""

    value: ir.Value
    view: View


@dataclass
class _Product:
    """The product of the probabilities with the values."""

    dot: ir.Operation
    values: Operand
    out: View
    ops: list[ir.Operation]
    steps: list[RawStep]


def match_site(softmax: Softmax) -> Site | None:
    """The attention around `softmax`; None if the probabilities never meet a product and nothing suggests attention.

    Raises: NoMatch with the reason at the deepest point reached.
    """
    return _Matcher(softmax).match()


class _Matcher:
    def __init__(self, softmax: Softmax) -> None:
        self.softmax, self.space, self.column = softmax, softmax.space, softmax.axis
        self.block = defining_op(softmax.probabilities).block
        self.inputs: list[Operand] = []
        self.ops: list[ir.Operation] = list(softmax.ops)

    def match(self) -> Site | None:
        product = self._find_product()
        if product is None:
            return None
        path = self._find_path(product)
        queries, keys, contracted = self._queries_and_keys(path)
        rows = self._row_axis(path, product, queries, keys)
        features = axes_of(self._resolved(product.values.view)) - {self.column} - axes_of(self.softmax.view)
        features -= axes_of(self._resolved(self.softmax.view))
        if len(features) > 1:
            raise NoMatch(product.dot, "the values have several feature dimensions", "reshape them into one")
        self.space.keep_whole([*([rows] if rows is not None else []), *features, *contracted])
        scale = self._absorb(queries, scaling=True) * self._absorb(keys, scaling=True)
        self._absorb(product.values, scaling=False)
        self.inputs = [queries, keys, product.values]
        self.ops += [*path.ops, *product.ops]
        result, out = self._absorb_result(product)
        # What other users of these see is the S x S tensors themselves.
        inner = [op for op in self.ops if op.results[0] != result]
        raw = [RawStep("scale", path.dot, value=scale)] if scale != 1.0 else []
        steps, rows = self._steps([*raw, *path.steps, *product.steps], rows)
        return self._site(steps, rows, contracted, features, out, result, inner)

    # -- the product with the values -------------------------------------------------------------------------------

    def _find_product(self) -> _Product | None:
        """Follow the probabilities to a dot_general that contracts the softmax axis."""
        failure: NoMatch | None = None
        for product in self._products(self.softmax.probabilities, self.softmax.view, [], [], 0):
            if isinstance(product, NoMatch):
                failure = failure or product
            else:
                return product
        if failure is not None and self._has_batched_product():
            raise failure
        if failure is None and self._has_batched_product():
            raise NoMatch(
                defining_op(self.softmax.probabilities), "the probabilities do not go into a product with values"
            )
        return None

    def _products(
        self, value: ir.Value, view: View, ops: list[ir.Operation], steps: list[RawStep], depth: int
    ) -> Iterator[_Product | NoMatch]:
        if depth > 12:
            return
        for op in users(value):
            if op.block != self.block:
                continue
            index = list(op.operands).index(value)
            if op.name == "stablehlo.dot_general":
                yield self._product(op, index, view, ops, steps)
                continue
            if op.name in SHAPE_OPS:
                next_view, next_steps = result_view(self.space, op, view), steps
            else:
                try:
                    next_view, next_steps = view, [*steps, *self._post(op, index, view)]
                except NoMatch as failure:
                    yield failure
                    continue
            if next_view is not None:
                yield from self._products(op.results[0], next_view, [*ops, op], next_steps, depth + 1)

    def _post(self, op: ir.Operation, index: int, view: View) -> list[RawStep]:
        step = post_step(op, index, view)
        return [] if step is None else [step]

    def _product(
        self, dot: ir.Operation, index: int, view: View, ops: list[ir.Operation], steps: list[RawStep]
    ) -> _Product | NoMatch:
        dims = DotDims.of(dot)
        mine = dims.lhs_contracting if index == 0 else dims.rhs_contracting
        contracted = self.space.resolve(axis for i in mine for axis in view[i])
        if contracted != (self.column,):
            return NoMatch(dot, "the product after the softmax does not sum over the softmax's own axis")
        if dot.operands[0] == dot.operands[1]:
            return NoMatch(dot, "the probabilities are multiplied by themselves")
        other, out = dot_other_view(self.space, dot, index, view)
        return _Product(dot, Operand(dot.operands[1 - index], other), out, [*ops, dot], steps)

    def _has_batched_product(self) -> bool:
        """Whether the logits come from a dot_general with batch dimensions: scores, not a dense layer."""
        for path in paths(self.space, self.softmax.logits, self.softmax.view, self.block):
            if DotDims.of(path.dot).lhs_batch:
                return True
        return False

    # -- the product of queries and keys ---------------------------------------------------------------------------

    def _find_path(self, product: _Product) -> Path:
        """The way to the scores: the one whose product has a row axis, among several."""
        found = list(paths(self.space, self.softmax.logits, self.softmax.view, self.block))
        for accept in (self._is_full_product, self._splits_column):
            for path in found:
                if accept(path, product):
                    return path
        if found:
            raise NoMatch(found[0].dot, "both operands of the score product vary along the softmax axis")
        obstacle = first_obstacle(self.softmax.logits)
        what = "an argument" if obstacle is None else obstacle.name.split(".", 1)[-1]
        where = obstacle or defining_op(self.softmax.probabilities)
        raise NoMatch(where, f"the logits do not come from a product of queries and keys but from {what}")

    def _splits_column(self, path: Path, product: _Product) -> bool:
        sides = self._sides(path)
        return (self.column in sides[0]) != (self.column in sides[1])

    def _is_full_product(self, path: Path, product: _Product) -> bool:
        if not self._splits_column(path, product):
            return False
        a, b = self._sides(path)
        queries, keys = (b, a) if self.column in a else (a, b)
        return bool(queries - keys - axes_of(self._resolved(product.values.view)))

    def _sides(self, path: Path) -> tuple[set[Axis], set[Axis]]:
        lhs, rhs = dot_operand_views(self.space, path.dot, path.view)
        return axes_of(self._resolved(lhs)), axes_of(self._resolved(rhs))

    def _queries_and_keys(self, path: Path) -> tuple[Operand, Operand, tuple[Axis, ...]]:
        lhs, rhs = (self._resolved(view) for view in dot_operand_views(self.space, path.dot, path.view))
        a, b = Operand(path.dot.operands[0], lhs), Operand(path.dot.operands[1], rhs)
        queries, keys = (b, a) if self.column in axes_of(lhs) else (a, b)
        logits = axes_of(self._resolved(path.view))
        contracted = tuple(axis for dim in keys.view for axis in dim if axis not in logits)
        if not contracted:
            raise NoMatch(path.dot, "queries and keys have one feature only")
        return queries, keys, contracted

    def _row_axis(self, path: Path, product: _Product, queries: Operand, keys: Operand) -> Axis | None:
        """The query axis: one that neither keys nor values have; the last before the columns if there are several."""
        q, k = axes_of(queries.view), axes_of(keys.view)
        v = axes_of(self._resolved(product.values.view))
        foreign = (k & v) - q - {self.column}
        if foreign:
            raise NoMatch(
                path.dot,
                "keys and values have a batch axis that the queries lack",
                "broadcast the queries over it if this is attention",
            )
        rows = [axis for dim in self._resolved(self.softmax.view) for axis in dim if axis in q - k - v]
        if not rows and not (q & k & v):
            raise NoMatch(path.dot, "there is no query axis: one vector weighs the rows")
        return rows[-1] if rows else None

    # -- operands --------------------------------------------------------------------------------------------------

    def _resolved(self, view: View) -> View:
        return self.space.resolve_view(view)

    def _absorb(self, operand: Operand, scaling: bool) -> float:
        """Walk `operand` up through transposes, repeats, widening converts and (queries, keys) constant factors.

        Moves `operand` to where the walk ends and adds the operations to the match. Plain reshapes count only below something
        worth absorbing: they cost nothing where they are. Returns the product of the factors.
        """
        value, view, scale = operand.value, operand.view, 1.0
        pending: list[ir.Operation] = []
        while (op := defining_op(value)) is not None and op.block == self.block:
            factor = _constant_factor(op) if scaling else None
            if factor is not None:
                value, scale = op.operands[0], scale * factor
            elif op.name in SHAPE_OPS and _reads_no_more(op):
                inner = operand_view(self.space, op, view)
                if inner is None:
                    break
                value, view = op.operands[0], inner
            else:
                break
            pending.append(op)
            if op.name != "stablehlo.reshape":
                self.ops += pending
                pending = []
                operand.value, operand.view = value, view
        return scale

    def _absorb_modifier(self, operand: Operand) -> None:
        """Walk a bias or mask up through shape operations: repeats are read in place."""
        while (op := defining_op(operand.value)) is not None and op.block == self.block and op.name in SHAPE_OPS:
            if not _reads_no_more(op) or (op.name == "stablehlo.convert" and not is_float(element_type(op.operands[0]))):
                return
            inner = operand_view(self.space, op, operand.view)
            if inner is None:
                return
            self.ops.append(op)
            operand.value, operand.view = op.operands[0], inner

    def _absorb_result(self, product: _Product) -> tuple[ir.Value, View]:
        """Transposes of the result are a matter of where it is written."""
        value, view = product.dot.results[0], self._resolved(product.out)
        while len(found := users(value)) == 1 and found[0].name == "stablehlo.transpose":
            view = result_view(self.space, found[0], view) or view
            value = found[0].results[0]
            self.ops.append(found[0])
        return value, view

    # -- steps -----------------------------------------------------------------------------------------------------

    def _steps(self, raw: Iterable[RawStep], rows: Axis | None) -> tuple[list[Step], Axis | None]:
        out: list[Step] = []
        raw = list(raw)
        # A mask that also zeroes probabilities stays one operand: read as a band here it would have to be read so there too.
        shared = {step.operand for step in raw if step.kind.startswith("post_")}
        for step in raw:
            if step.operand is None:
                out.append(Step(step.kind, value=step.value))
                continue
            if step.kind == "select" or (additive := _additive_mask(self.space, step)) is not None:
                source = step if step.kind == "select" else additive
                if source.operand not in shared:
                    found, rows = self._masked(source, step, rows)
                    out += found
                    continue
            out.append(self._with_operand(step, Operand(step.operand, step.view), step.negated))
        return out, rows

    def _masked(self, mask: RawStep, step: RawStep, rows: Axis | None) -> tuple[list[Step], Axis | None]:
        """A mask as bands and residue. An added mask is a band alone or stays a bias: its fill must not be added twice."""
        assert mask.operand is not None
        read = recover(self.space, mask.operand, mask.view, self.column, mask.negated)
        band_rows = {band.row for band in read.bands}
        usable = not read.never and len(band_rows) <= 1 and self._is_query_axis(band_rows)
        additive = step.kind != "select"
        if not usable or not read.bands or (additive and (read.residue or len(read.bands) > 1)):
            return [self._with_operand(step, Operand(step.operand, step.view), step.negated)], rows
        kind = "band_add" if additive else "band"
        steps = [Step(kind, value=mask.value, low=band.low, high=band.high) for band in read.bands]
        for term in read.residue:
            steps.append(self._with_operand(step, Operand(term.value, term.view), term.negated))
        return _merged_bands(steps), next(iter(band_rows))

    def _is_query_axis(self, candidates: set[Axis]) -> bool:
        queries, keys, values = (axes_of(self._resolved(o.view)) for o in self.inputs[:3])
        return all(axis in queries - keys - values for axis in candidates)

    def _with_operand(self, step: RawStep, operand: Operand, negated: bool) -> Step:
        producer = defining_op(operand.value)
        if producer is not None and producer in self.ops:
            raise NoMatch(step.op, "the probabilities or logits are combined with themselves")
        self._absorb_modifier(operand)
        for i, known in enumerate(self.inputs[3:], start=3):
            if known.value == operand.value and self._resolved(known.view) == self._resolved(operand.view):
                return Step(step.kind, step.value, i, negated)
        self.inputs.append(operand)
        return Step(step.kind, step.value, len(self.inputs) - 1, negated)

    # -- the result ------------------------------------------------------------------------------------------------

    def _site(
        self,
        steps: list[Step],
        rows: Axis | None,
        contracted: tuple[Axis, ...],
        features: set[Axis],
        out: View,
        result: ir.Value,
        inner: list[ir.Operation],
    ) -> Site:
        names = self._names(rows, contracted, features)

        def layout(view: View) -> Layout:
            return Layout(tuple(tuple(names[axis] for axis in dim) for dim in self._resolved(view)))

        kept = _needed(result, {operand.value for operand in self.inputs}, self.ops)
        kept_set = set(kept)
        scores = [op for op in inner if op in kept_set and _is_score(self.space, op, self.column)]
        escapes = any(user not in kept_set for op in scores for user in users(op.results[0]) if op.results[0] != result)
        q, k, v = (layout(operand.view) for operand in self.inputs[:3])
        operands = list(dict.fromkeys(operand.value for operand in self.inputs))
        spec = AttentionSpec(
            axes={name: self.space.size(axis) for axis, name in sorted(names.items(), key=lambda item: item[1])},
            q=q,
            k=k,
            v=v,
            out=layout(out),
            modifiers=tuple(layout(operand.view) for operand in self.inputs[3:]),
            steps=tuple(steps),
            escapes=escapes,
            sources=tuple(operands.index(operand.value) for operand in self.inputs),
        )
        spec.verify([shape(value) for value in operands], shape(result))
        return Site(spec, kept, operands, result)

    def _names(self, rows: Axis | None, contracted: tuple[Axis, ...], features: set[Axis]) -> dict[Axis, str]:
        """Axis letters: t, s, d, e by role; b, h, ... shared parallel axes in the order of the logits; g, ... the queries' own."""
        names: dict[Axis, str] = {self.column: "s"}
        if rows is not None:
            names[rows] = "t"
        for i, axis in enumerate(contracted):
            names[axis] = "d" if i == 0 else f"d{i}"
        for axis in features:
            names[axis] = "e"
        queries, keys, values = (axes_of(self._resolved(o.view)) for o in self.inputs[:3])
        found = [axis for dim in self._resolved(self.softmax.view) for axis in dim if axis not in names]
        shared = [axis for axis in found if axis in (keys | values)]
        own = [axis for axis in found if axis not in (keys | values)]
        names.update(zip(shared, _letters("b", "h", len(shared)), strict=True))
        names.update(zip(own, _letters("g", "g", len(own)), strict=True))
        return names


def _letters(first: str, last: str, count: int) -> list[str]:
    if count <= 1:
        return [first][:count]
    return [first, *(f"{first}{i}" for i in range(1, count - (first != last))), *([last] if first != last else [])]


def _constant_factor(op: ir.Operation) -> float | None:
    """c, if `op` is x * c or x / c with a constant c."""
    if op.name not in ("stablehlo.multiply", "stablehlo.divide"):
        return None
    number = splat(op.operands[1])
    if number is None or not number:
        return None
    return float(number) if op.name == "stablehlo.multiply" else 1.0 / float(number)


def _reads_no_more(op: ir.Operation) -> bool:
    """Converts are worth reading through only where they widen without loss; other shape operations always."""
    if not has_static_shape(op.operands[0]):
        return False
    wide, narrow = element_type(op.results[0]), element_type(op.operands[0])
    return op.name != "stablehlo.convert" or (is_float(narrow) and holds(wide, narrow))


def _additive_mask(space: AxisSpace, step: RawStep) -> RawStep | None:
    """The mask behind `x + select(m, 0, fill)`, repeated or transposed on its way, as a select step."""
    if step.kind != "add" or step.operand is None:
        return None
    value, view = step.operand, step.view
    while (op := defining_op(value)) is not None and op.name in SHAPE_OPS:
        inner = operand_view(space, op, view)
        if inner is None:
            return None
        value, view = op.operands[0], inner
    select = defined_by(value, "stablehlo.select")
    if select is None:
        return None
    predicate, on_true, on_false = select.operands
    numbers = (splat(on_true), splat(on_false))
    for fill, zero, negated in ((numbers[1], numbers[0], False), (numbers[0], numbers[1], True)):
        if zero == 0 and fill is not None:
            return RawStep("select", select, float(fill), predicate, view, negated)
    return None


def _merged_bands(steps: list[Step]) -> list[Step]:
    """Neighbouring bands with one fill are one band."""
    out: list[Step] = []
    for step in steps:
        if out and step.kind == out[-1].kind == "band" and step.value == out[-1].value:
            lows = [x for x in (out[-1].low, step.low) if x is not None]
            highs = [x for x in (out[-1].high, step.high) if x is not None]
            out[-1] = Step("band", step.value, low=max(lows, default=None), high=min(highs, default=None))
        else:
            out.append(step)
    return out


def _needed(result: ir.Value, stops: set[ir.Value], matched: Iterable[ir.Operation]) -> list[ir.Operation]:
    """The matched operations that `result` depends on between the stops and it, producers first.

    Raises: NoMatch if it depends on something else.
    """
    allowed = set(matched)
    done: dict[ir.Operation, None] = {}
    stack: list[tuple[ir.Value, bool]] = [(result, False)]
    while stack:
        value, expanded = stack.pop()
        op = defining_op(value)
        if value in stops or (op is not None and (op in done or op.name == "stablehlo.constant")):
            continue
        if op is None:
            raise NoMatch(defining_op(result), "a mask or scale depends on an argument in a way that is not understood")
        if expanded:
            done[op] = None
            continue
        # A proven mask leaves no operand, so the arithmetic on constants that it was proven from moves along.
        if op not in allowed and op.name not in EXACT_OPS:
            raise NoMatch(op, f"{op.name.split('.', 1)[-1]} takes part in a way that is not understood")
        stack.append((value, True))
        stack.extend((operand, False) for operand in op.operands)
    return list(done)


def _is_score(space: AxisSpace, op: ir.Operation, column: Axis) -> bool:
    """Whether `op` computes something as large as the logits."""
    return column is not None and op.name not in ("stablehlo.reduce",)
