"""raise-attention: softmax(q kᵀ) v becomes a zenith.attention composite whose decomposition is the original code."""

from __future__ import annotations

from dataclasses import dataclass

from jaxlib.mlir import ir

from zenith_mlir.context import PassContext
from zenith_mlir.dialects import attention_vjp
from zenith_mlir.dialects.attention import NAME, AttentionSpec
from zenith_mlir.ir.composites import walk_program
from zenith_mlir.ir.facts import element_type, has_static_shape, is_float, producer, shape
from zenith_mlir.ir.outline import outline_composite
from zenith_mlir.ir.row_statistics import emit_row_statistics
from zenith_mlir.match.attention import GradientSite, NoMatch, Site, find_softmax, match_gradient, match_site
from zenith_mlir.module import Module
from zenith_mlir.registry import Pass, register


@register("raise-attention")
@dataclass(frozen=True)
class RaiseAttention(Pass):
    """Outline every softmax(q kᵀ · scale + bias) v into a `stablehlo.composite "zenith.attention"`.

    The matched operations move, unchanged, into the decomposition: raising changes no number. Scales, biases, masks,
    soft caps, grouped heads and layouts are read off the program and stated as attributes. Expects the canonical form
    (run `prepare` before).
    """

    def run(self, module: Module, ctx: PassContext) -> None:
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
                _raise(module, site, ctx)


def _is_static_float(value: ir.Value) -> bool:
    return has_static_shape(value) and 0 not in shape(value) and is_float(element_type(value))


def _match(exponential: ir.Operation, ctx: PassContext) -> Site | None:
    try:
        softmax = find_softmax(exponential)
        return None if softmax is None else match_site(softmax)
    except NoMatch as miss:
        ctx.missed(miss.op, NAME, miss.reason, miss.suggest)
        return None


def _raise(module: Module, site: Site, ctx: PassContext) -> None:
    """Outline the attention, and its gradient where the program has it."""
    gradient = _match_gradient(site, ctx)
    if gradient is None:
        with producer(site.result).location:
            attributes = site.spec.attributes()
        composite = outline_composite(module.operation, NAME, site.ops, site.operands, [site.result], attributes)
        _report(ctx, composite, site.spec)
        return
    _outline_pair(module, site, gradient, ctx)


def _match_gradient(site: Site, ctx: PassContext) -> GradientSite | None:
    try:
        return match_gradient(site)
    except NoMatch as miss:
        ctx.missed(miss.op, attention_vjp.NAME, miss.reason, miss.suggest)
        return None


def _outline_pair(module: Module, site: Site, gradient: GradientSite, ctx: PassContext) -> None:
    anchor = producer(site.result)
    spec = gradient.spec
    ops, statistics = _row_statistics(site, anchor)
    with anchor.location:
        attributes, backward = spec.attention.attributes(), spec.attributes()
    forward = outline_composite(
        module.operation, NAME, [*site.ops, *ops], site.operands, [site.result, *statistics], attributes
    )
    operands = [*gradient.operands, *forward.results, gradient.cotangent]
    composite = outline_composite(
        module.operation, attention_vjp.NAME, gradient.ops, operands, gradient.results, backward, gradient.before
    )
    _report(ctx, forward, spec.attention)
    ctx.count("attention gradients raised")
    ctx.passed(
        composite,
        attention_vjp.NAME,
        gradients=", ".join(str(g.role) for g in spec.gradients),
        cotangent=str(spec.cotangent),
    )


def _row_statistics(site: Site, anchor: ir.Operation) -> tuple[list[ir.Operation], list[ir.Value]]:
    """Operations for the maximum and the sum of each row of logits, laid out as the composite has them."""
    softmax, names = site.anatomy.softmax, site.anatomy.names
    axes = [axis for dim in softmax.space.resolve_view(softmax.view) for axis in dim]
    labels = [names[axis] for axis in axes]
    permutation = [labels.index(name) for name in site.spec.logit_axes]
    return emit_row_statistics(softmax.logits, [softmax.space.size(axis) for axis in axes], permutation, anchor)


def _report(ctx: PassContext, composite: ir.Operation, spec: AttentionSpec) -> None:
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
