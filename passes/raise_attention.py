"""raise-attention: softmax(q kᵀ) v becomes a zenith.attention composite whose decomposition is the original code, its
gradient a zenith.attention_vjp.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from jaxlib.mlir import ir

from zenith_mlir.context import PassContext
from zenith_mlir.dialects import attention_vjp
from zenith_mlir.dialects.attention import NAME, AttentionSpec
from zenith_mlir.ir.composites import walk_program
from zenith_mlir.ir.facts import element_type, has_static_shape, is_float, producer, shape
from zenith_mlir.ir.outline import outline_composite
from zenith_mlir.ir.row_statistics import RowView, emit_row_statistics
from zenith_mlir.ir.stacks import NotStacked, loop_around
from zenith_mlir.match.attention import (
    GradientSite,
    NoMatch,
    Site,
    Softmax,
    find_softmax,
    match_gradient,
    match_recomputed,
    match_site,
    recompute_saved,
    recompute_stacked,
    repetitions,
)
from zenith_mlir.match.axes import View
from zenith_mlir.module import Module
from zenith_mlir.passes.simplify import Simplify
from zenith_mlir.registry import Pass, register


@register("raise-attention")
@dataclass(frozen=True)
class RaiseAttention(Pass):
    """Outline every softmax(q kᵀ · scale + bias) v into a `stablehlo.composite "zenith.attention"`, and where the
    program has its gradient, that into a "zenith.attention_vjp".

    The matched operations move, unchanged, into the decomposition: raising changes no number. Scales, biases, masks,
    soft caps, grouped heads and layouts are read off the program and stated as attributes. Expects the canonical form
    (run `prepare` before).
    """

    def run(self, module: Module, ctx: PassContext) -> None:
        _recompute(module, ctx)
        raised: list[tuple[ir.Operation, AttentionSpec, bool]] = []
        for site in _sites(module, ctx):
            gradient = _match_gradient(site, ctx)
            forward, statistics = _outline_forward(module, site, gradient)
            if gradient is not None:
                composite = _outline_gradient(module, gradient, statistics)
                _report_gradient(ctx, composite, gradient)
            if forward is not None:
                spec = site.spec if gradient is None else gradient.spec.attention
                raised.append((forward, spec, gradient is not None))
        again = repetitions([(composite, has_gradient) for composite, _, has_gradient in raised])
        for composite, spec, _ in raised:
            _report(ctx, composite, spec, repeated=composite in again)


def _recompute(module: Module, ctx: PassContext) -> None:
    """Let the backward compute probabilities again instead of reading them from a scan's stack, or logits that come
    through a barrier: then they meet the gradient in one block.
    """
    for recompute in (_recompute_stacked, _recompute_saved):
        exponentials = walk_program(module.operation, "stablehlo.exponential")
        count = sum(recompute(exponential, ctx) for exponential in exponentials)
        ctx.count("residuals recomputed", count)
        if count:
            Simplify().run(module, ctx)


def _recompute_stacked(exponential: ir.Operation, ctx: PassContext) -> int:
    loop = loop_around(exponential)
    site = None if loop is None else _match_quietly(exponential)
    if loop is None or site is None or site.result is None:
        return 0
    try:
        return recompute_stacked(loop, site)
    except NotStacked as miss:
        reason = f"its loop keeps the probabilities for the gradient, and not what {_short(miss.op)} computes from"
        ctx.missed(site.anatomy.scores.path.dot, attention_vjp.NAME, reason)
        return 0


def _recompute_saved(exponential: ir.Operation, ctx: PassContext) -> int:
    softmax = _softmax_quietly(exponential)
    return int(softmax is not None and recompute_saved(softmax))


def _short(op: ir.Operation) -> str:
    return op.name.split(".", 1)[-1]


def _softmax_quietly(exponential: ir.Operation) -> Softmax | None:
    try:
        return find_softmax(exponential) if _is_static_float(exponential.results[0]) else None
    except NoMatch:
        return None


def _match_quietly(exponential: ir.Operation) -> Site | None:
    softmax = _softmax_quietly(exponential)
    try:
        return None if softmax is None else match_site(softmax)
    except NoMatch:
        return None


def _sites(module: Module, ctx: PassContext) -> Iterator[Site]:
    """Attentions in program order, each matched once those before it are outlined."""
    exponentials = walk_program(module.operation, "stablehlo.exponential")
    position = {op: i for i, op in enumerate(exponentials)}
    # A match may take further exponentials along (a sink's) and erase them: those must not be looked at again.
    taken: set[int] = set()
    for i, exponential in enumerate(exponentials):
        if i in taken or not _is_static_float(exponential.results[0]):
            continue
        site = _match(exponential, ctx)
        if site is not None:
            taken |= {position[op] for op in site.ops if op in position}
            yield site


def _is_static_float(value: ir.Value) -> bool:
    return has_static_shape(value) and 0 not in shape(value) and is_float(element_type(value))


def _match(exponential: ir.Operation, ctx: PassContext) -> Site | None:
    site, failure = None, None
    try:
        softmax = find_softmax(exponential)
        site = None if softmax is None else match_site(softmax)
    except NoMatch as miss:
        failure = miss
    site = site or _match_recomputed(exponential)
    if site is None and failure is not None:
        ctx.missed(failure.op, NAME, failure.reason, failure.suggest)
    return site


def _match_recomputed(exponential: ir.Operation) -> Site | None:
    try:
        softmax = find_softmax(exponential)
        return None if softmax is None else match_recomputed(softmax)
    except NoMatch:
        return None


def _match_gradient(site: Site, ctx: PassContext) -> GradientSite | None:
    try:
        return match_gradient(site)
    except NoMatch as miss:
        ctx.missed(miss.op, attention_vjp.NAME, miss.reason, miss.suggest)
        return None


def _outline_forward(
    module: Module, site: Site, gradient: GradientSite | None
) -> tuple[ir.Operation | None, list[ir.Value]]:
    """The composite, if the attention has a result here, and what its gradient takes of it."""
    if site.result is None:
        return None, []
    anchor = producer(site.result)
    spec, ops, results = site.spec, site.ops, [site.result]
    if gradient is not None:
        spec = gradient.spec.attention
        added, statistics = _row_statistics(site, anchor)
        ops, results = [*ops, *added], [*results, *statistics]
    with anchor.location:
        attributes = spec.attributes()
    composite = outline_composite(module.operation, NAME, ops, site.operands, results, attributes)
    return composite, list(composite.results)


def _outline_gradient(module: Module, gradient: GradientSite, statistics: list[ir.Value]) -> ir.Operation:
    with gradient.before.location:
        attributes = gradient.spec.attributes()
    operands = [*gradient.operands, *statistics, gradient.cotangent]
    return outline_composite(
        module.operation,
        attention_vjp.NAME,
        gradient.ops,
        operands,
        gradient.results,
        attributes,
        gradient.before,
    )


def _row_statistics(site: Site, anchor: ir.Operation) -> tuple[list[ir.Operation], list[ir.Value]]:
    """Operations for the maximum and the sum of each row of logits, laid out as the composite has them."""
    softmax = site.anatomy.softmax
    logits = _row_view(site, softmax.view, site.spec.logit_axes)
    sink = None if softmax.sink is None else (softmax.sink, _row_view(site, softmax.sink_view, site.spec.rows.axes))
    return emit_row_statistics(softmax.logits, logits.split, logits.permutation, anchor, sink)


def _row_view(site: Site, view: View, order: Sequence[str]) -> RowView:
    """How a value with that view is brought to dimensions in that order."""
    space, names = site.anatomy.softmax.space, site.anatomy.names
    axes = [axis for dim in space.resolve_view(view) for axis in dim]
    labels = [names[axis] for axis in axes]
    present = [name for name in order if name in labels]
    permutation = [labels.index(name) for name in present]
    return RowView([space.size(axis) for axis in axes], permutation, [order.index(name) for name in present])


def _report(ctx: PassContext, composite: ir.Operation, spec: AttentionSpec, repeated: bool) -> None:
    """One remark a site; computing it again for the gradient does not make it two."""
    if repeated:
        ctx.count("attention repeated for a gradient")
        ctx.analysis(composite, NAME, "computed a second time, for the gradient, as jax.checkpoint asks")
        return
    ctx.count("attention raised")
    ctx.passed(
        composite,
        NAME,
        causal=spec.is_causal,
        scale=spec.scale,
        softcap=spec.softcap,
        modifiers=len(spec.modifiers),
        escapes=spec.escapes,
        layouts=f"{spec.q}, {spec.k}, {spec.v} -> {spec.out}",
    )


def _report_gradient(ctx: PassContext, composite: ir.Operation, gradient: GradientSite) -> None:
    ctx.count("attention gradients raised")
    roles = [_ROLES.get(g.role, f"modifier {g.role - 3}") for g in gradient.spec.gradients]
    ctx.passed(
        composite,
        attention_vjp.NAME,
        gradients=", ".join(roles),
        recomputes=not gradient.spec.residuals,
        cotangent=str(gradient.spec.cotangent),
    )


_ROLES = {0: "q", 1: "k", 2: "v"}
