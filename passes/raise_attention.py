"""raise-attention: softmax(q kᵀ) v becomes a zenith.attention composite whose decomposition is the original code."""

from __future__ import annotations

from dataclasses import dataclass

from jaxlib.mlir import ir

from zenith_mlir.context import PassContext
from zenith_mlir.dialects.attention import NAME
from zenith_mlir.ir.composites import walk_program
from zenith_mlir.ir.facts import element_type, has_static_shape, is_float, producer, shape
from zenith_mlir.ir.outline import outline_composite
from zenith_mlir.match.attention import NoMatch, Site, find_softmax, match_site
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
                _outline(module, site, ctx)


def _is_static_float(value: ir.Value) -> bool:
    return has_static_shape(value) and 0 not in shape(value) and is_float(element_type(value))


def _match(exponential: ir.Operation, ctx: PassContext) -> Site | None:
    try:
        softmax = find_softmax(exponential)
        return None if softmax is None else match_site(softmax)
    except NoMatch as miss:
        ctx.missed(miss.op, NAME, miss.reason, miss.suggest)
        return None


def _outline(module: Module, site: Site, ctx: PassContext) -> None:
    with producer(site.result).location:
        attributes = site.spec.attributes()
    composite = outline_composite(module.operation, NAME, site.ops, site.operands, [site.result], attributes)
    spec = site.spec
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
