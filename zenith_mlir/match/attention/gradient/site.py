"""The backward of one attention: which products and sums in the program are its gradients.

Every gradient is reached from the exponentials of the softmax. For each product or sum on the way the polynomial of
what it multiplies is compared with that of the derivative: equal up to a constant means that it is that gradient.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

from jaxlib.mlir import ir

from zenith_mlir.dialects.attention_vjp import AttentionVjpSpec, Gradient
from zenith_mlir.dialects.layout import Layout
from zenith_mlir.ir.dots import DotDims
from zenith_mlir.ir.facts import defining_op, element_type, int_list, is_float, producer, shape, users
from zenith_mlir.match.algebra.polynomial import NotPolynomial, Polynomial, Tensor
from zenith_mlir.match.attention.gradient.derivative import Derivative, derivative, value_weights
from zenith_mlir.match.attention.gradient.operands import Renaming, absorb_gradient, is_sum, renamed, renaming
from zenith_mlir.match.attention.gradient.placement import backward_ops, refuse_survivors
from zenith_mlir.match.attention.gradient.reader import AttentionReader
from zenith_mlir.match.attention.gradient.region import Region, Use, downstream, reduced_view
from zenith_mlir.match.attention.gradient.sink import sink_of, weights, without_dim
from zenith_mlir.match.attention.operands import Absorbed, Operand, absorb
from zenith_mlir.match.attention.site import Site, refuse_marked
from zenith_mlir.match.axes import Axis, View, axes_of, dot_operand_views, dot_other_view
from zenith_mlir.match.nomatch import NoMatch
from zenith_mlir.match.placement import first_user, refuse_late


@dataclass(frozen=True)
class GradientSite:
    """The backward of an attention: `ops` compute `results` from the operands of the attention, the cotangent and
    constants.

    Operands of the composite are `operands`, then out, maximum and sum of the attention (unless the spec says that the
    probabilities are computed anew), then `cotangent`. All are known `before` the operation that first uses one of the
    results.
    """

    spec: AttentionVjpSpec
    ops: list[ir.Operation]
    operands: list[ir.Value]
    cotangent: ir.Value
    results: list[ir.Value]
    before: ir.Operation


@dataclass(frozen=True)
class _Found:
    """A gradient in the program: `operand` is `factor` times that of `role`."""

    role: int
    operand: Operand
    factor: float


def match_gradient(site: Site) -> GradientSite | None:
    """The backward of `site`; None if the program has none.

    Raises: NoMatch if it has one that is not understood as a whole.
    """
    backward = _Backward(site)
    if not backward.exists:
        return None
    if site.anatomy.softmax.guarded:
        raise NoMatch(
            site.anatomy.values.dot,
            "the softmax guards against an infinite maximum, and its gradient then is 0 where a fused one is not a "
            "number",
            "use jax.nn.softmax",
        )
    try:
        return backward.match()
    except NotPolynomial:
        dot = site.anatomy.values.dot
        raise NoMatch(dot, "the gradient is a longer expression than a softmax has") from None


class _Backward:
    """The uses of the exponentials of one attention, and what they are read as."""

    def __init__(self, site: Site) -> None:
        self._site, self._parts = site, site.anatomy
        self._space, self._block = self._parts.softmax.space, self._parts.softmax.block
        self._column, self._rows = self._parts.softmax.axis, self._parts.scores.rows
        self._sink = sink_of(self._parts.softmax)
        self._region = self._downstream()
        self._reader = AttentionReader(self._parts.softmax, self._region.views)
        dots = [use for use in self._region.uses if use.op.name == "stablehlo.dot_general"]
        self._forward = {self._parts.values.dot} if site.result is not None else set()
        self._dots = [use for use in dots if use.op not in self._forward]

    @property
    def exists(self) -> bool:
        """Whether something is summed over the queries: no forward does that."""
        return self._rows is not None and any(self._rows in self._contracted(use) for use in self._dots)

    def match(self) -> GradientSite:
        weights = value_weights(self._reader, self._parts.softmax, self._parts.raw)[-1]
        read = [(use, self._read(use)) for use in self._dots]
        product, cotangent = self._cotangent(read, weights)
        found = [self._value_gradient(use, poly, weights, cotangent) for use, poly in read]
        if product is not None:
            rules = derivative(self._reader, self._parts.softmax, self._parts.raw, set(self._float_roles()), product)
            for i, (use, poly) in enumerate(read):
                found[i] = found[i] or self._score_gradient(use, poly, rules.scores)
            found += [self._operand_gradient(read_as, result, rules) for read_as, result in self._candidates()]
        for (use, _), gradient in zip(read, found, strict=False):
            if gradient is None:
                raise NoMatch(use.op, "a product in the gradient is none that the derivative of this attention has")
        return self._site_of([gradient for gradient in found if gradient is not None], cotangent)

    def _downstream(self) -> Region:
        softmax = self._parts.softmax
        large = {self._column} if self._rows is None else {self._column, self._rows}
        return downstream(self._space, weights(softmax), softmax.view, self._block, large, self._sink)

    def _read(self, use: Use) -> Polynomial:
        return self._reader.read(use.value, use.view)

    def _ratio(self, a: Polynomial, b: Polynomial) -> float | None:
        """Axes may have been split since a polynomial was read."""
        return a.mapped(self._space.resolve_view).ratio_to(b.mapped(self._space.resolve_view))

    def _renaming(self, found: Operand, known: Operand) -> Renaming | None:
        return renaming(self._space, found, known, self._parts.softmax.view)

    def _contracted(self, use: Use) -> set[Axis]:
        dims = DotDims.of(use.op)
        mine = dims.lhs_contracting if use.index == 0 else dims.rhs_contracting
        return set(self._space.resolve(axis for i in mine for axis in use.view[i]))

    def _other(self, use: Use, scaling: bool) -> tuple[Absorbed, View]:
        """The other operand of a product, moved up to where it is read from, and the view of the result."""
        other, out = dot_other_view(self._space, use.op, use.index, use.view)
        operand = Operand(use.op.operands[1 - use.index], other)
        return absorb(self._space, operand, self._block, scaling), out

    def _cotangent(
        self, read: Iterable[tuple[Use, Polynomial]], weights: Polynomial
    ) -> tuple[Polynomial | None, Operand]:
        """The product of cotangent and values, if the program has it, and the cotangent.

        The cotangent's features are those of the values.
        """
        for _, poly in read:
            for atom in poly.atoms():
                if isinstance(atom, Tensor) and (cotangent := self._cotangent_of(atom)) is not None:
                    return Polynomial.of(atom), cotangent
        for use, poly in read:
            if self._rows in self._contracted(use) and self._ratio(poly, weights) is not None:
                other, out = self._other(use, scaling=False)
                return None, self._with_value_features(other.operand, out)
        raise NoMatch(self._dots[0].op, "the gradient of the probabilities is no product with the values")

    def _cotangent_of(self, atom: Tensor) -> Operand | None:
        """The other factor, if `atom` is a product with the values over their features."""
        dot = defining_op(atom.value)
        if dot is None or dot.name != "stablehlo.dot_general":
            return None
        views = dot_operand_views(self._space, dot, atom.view)
        operands = [Operand(value, view) for value, view in zip(dot.operands, views, strict=True)]
        for mine, other in (operands, reversed(operands)):
            values = absorb(self._space, mine, self._block, scaling=False).operand
            names = self._renaming(values, self._parts.v.operand)
            if names is not None:
                cotangent = absorb(self._space, other, self._block, scaling=False).operand
                view = renamed(self._space, cotangent.view, names)
                if self._column not in axes_of(view):
                    return Operand(cotangent.value, view)
        return None

    def _with_value_features(self, cotangent: Operand, out: View) -> Operand:
        """Without a product with the values there is only the extent to say which axis their features are."""
        known = axes_of(self._space.resolve_view(self._parts.softmax.view))
        fresh = axes_of(self._space.resolve_view(cotangent.view)) - known
        own = axes_of(self._space.resolve_view(self._parts.values.values.view)) - known
        if [self._space.size(axis) for axis in fresh] != [self._space.size(axis) for axis in own] or len(own) > 1:
            raise NoMatch(self._dots[0].op, "the cotangent has not the features of the values")
        names = dict(zip(fresh, own, strict=True))
        return Operand(cotangent.value, renamed(self._space, cotangent.view, names))

    def _value_gradient(self, use: Use, poly: Polynomial, weights: Polynomial, cotangent: Operand) -> _Found | None:
        contracted = self._contracted(use)
        factor = self._ratio(poly, weights)
        if factor is None or self._rows not in contracted or self._column in contracted:
            return None
        other, out = self._other(use, scaling=False)
        names = self._renaming(other.operand, cotangent)
        if names is None:
            return None
        result = Operand(use.op.results[0], renamed(self._space, out, names))
        return self._absorbed(2, result, self._parts.v.operand, factor)

    def _score_gradient(self, use: Use, poly: Polynomial, scores: Polynomial) -> _Found | None:
        contracted = self._contracted(use)
        factor = self._ratio(poly, scores)
        sides = [axis in contracted for axis in (self._rows, self._column)]
        if factor is None or sides[0] == sides[1]:
            return None
        other, out = self._other(use, scaling=True)
        role, known, own = (1, self._parts.q, self._parts.k) if sides[0] else (0, self._parts.k, self._parts.q)
        names = self._renaming(other.operand, known.operand)
        if names is None:
            return None
        result = Operand(use.op.results[0], renamed(self._space, out, names))
        return self._absorbed(role, result, own.operand, factor * other.scale)

    def _absorbed(self, role: int, result: Operand, own: Operand, factor: float) -> _Found:
        axes = axes_of(self._space.resolve_view(own.view))
        return _Found(role, absorb_gradient(self._space, result, axes), factor)

    def _float_roles(self) -> dict[int, int]:
        """Roles of operands of steps that have gradients, by the position of the step.

        What two steps read has a gradient through each, and neither is its gradient.
        """
        raw, roles = self._parts.raw, self._parts.roles
        often = Counter(roles.values())
        return {i: role for i, role in roles.items() if _is_float(raw[i].operand) and often[role] == 1}

    def _candidates(self) -> Iterator[tuple[Operand, Operand]]:
        """What may be gradients of operands of steps, each as what to read and the result to take: sums over other axes
        than the columns alone, a sink's column, and whatever of full extent is used elsewhere.
        """
        dots = {use.op for use in self._dots} | self._forward
        for use in self._region.uses:
            view = self._space.resolve_view(use.view)
            if is_sum(use.op):
                yield from self._summed(use, view)
            elif self._sink is not None and self._sink.slices(use.op) == "sink":
                column = Operand(use.op.results[0], without_dim(view, self._sink.dim))
                yield column, column
            elif use.op not in dots:
                whole = Operand(use.value, view)
                yield whole, whole

    def _summed(self, use: Use, view: View) -> Iterator[tuple[Operand, Operand]]:
        axes = {axis for i in int_list(use.op, "dimensions") for axis in view[i]}
        result = Operand(use.op.results[0], reduced_view(use.op, view))
        if not axes <= {self._column}:
            yield Operand(use.value, view), result
        elif self._sink is not None and self._rows is not None:
            # The gradient of a sink is made of values of a row alone.
            for further in downstream(self._space, [result.value], result.view, self._block, {self._rows}).uses:
                if is_sum(further.op):
                    summed = Operand(further.op.results[0], reduced_view(further.op, further.view))
                    yield Operand(further.value, further.view), summed

    def _operand_gradient(self, read: Operand, result: Operand, rules: Derivative) -> _Found | None:
        poly = self._reader.read(read.value, read.view)
        sinks = [role for i, role in self._float_roles().items() if self._parts.raw[i].kind == "sink"]
        if not poly.terms and sinks:
            # What flows through the maximum to the sink cancels, and is computed all the same.
            return _Found(sinks[0], result, 0.0)
        for position, role in self._float_roles().items():
            expected = rules.operands.get(position)
            factor = None if expected is None else self._ratio(poly, expected)
            if factor is None:
                continue
            whole = read.value == result.value and result.value in self._region.views
            return _Found(role, result if whole else absorb_gradient(self._space, result, set()), factor)
        return None

    def _site_of(self, found: list[_Found], cotangent: Operand) -> GradientSite:
        used = [gradient for gradient in found if users(gradient.operand.value)]
        found = list({gradient.operand.value: gradient for gradient in used}.values())
        if not found:
            raise NoMatch(self._dots[0].op, "nothing uses the gradients of this attention")
        spec = AttentionVjpSpec(
            replace(self._site.spec, escapes=False, residuals=self._site.result is not None),
            self._layout(cotangent),
            tuple(Gradient(g.role, self._layout(g.operand), g.factor) for g in found),
        )
        results = [gradient.operand.value for gradient in found]
        operands = self._site.operands
        if cotangent.value in {result for op in self._site.ops for result in op.results}:
            raise NoMatch(producer(cotangent.value), "the cotangent is the result of the attention itself")
        ops = backward_ops(results, {*operands, cotangent.value}, self._block)
        refuse_marked(ops)
        out = [value for value in [self._site.result] if value is not None]
        refuse_survivors(self._region.views, {*ops, *self._site.ops}, {*results, *out})
        _verify(spec, operands, cotangent.value, results)
        before = first_user(results, self._block)
        refuse_late([*operands, cotangent.value, *out], before)
        return GradientSite(spec, ops, operands, cotangent.value, results, before)

    def _layout(self, operand: Operand) -> Layout:
        names = self._parts.names
        view = self._space.resolve_view(operand.view)
        if not axes_of(view) <= names.keys():
            raise NoMatch(producer(operand.value), "a gradient is laid out in a way that its operand is not")
        return Layout(tuple(tuple(names[axis] for axis in dim) for dim in view))


def _verify(spec: AttentionVjpSpec, operands: list[ir.Value], cotangent: ir.Value, results: list[ir.Value]) -> None:
    attention = spec.attention
    rows = attention.rows.shape(attention.axes)
    residuals = [attention.out.shape(attention.axes), rows, rows] if spec.residuals else []
    spec.verify([*map(shape, operands), *residuals, shape(cotangent)], [shape(result) for result in results])


def _is_float(value: ir.Value | None) -> bool:
    return value is not None and is_float(element_type(value))
