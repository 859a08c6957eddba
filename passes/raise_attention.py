"""raise-attention: softmax(q kᵀ) v becomes a zenith.attention composite whose decomposition is the original code."""

from __future__ import annotations

from dataclasses import dataclass

from jaxlib.mlir import ir

from zenith_mlir.context import PassContext
from zenith_mlir.dialects.attention import NAME
from zenith_mlir.ir.composites import walk_program
from zenith_mlir.ir.facts import element_type, has_static_shape, is_float
from zenith_mlir.ir.outline import outline_composite
from zenith_mlir.match.attention import NoMatch, find_softmax, match_site
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
        with module.context:
            for exponential in walk_program(module.operation, "stablehlo.exponential"):
                if has_static_shape(exponential.results[0]) and is_float(element_type(exponential.results[0])):
                    _raise_at(module, exponential, ctx)


def _raise_at(module: Module, exponential: ir.Operation, ctx: PassContext) -> None:
    try:
        softmax = find_softmax(exponential)
        site = None if softmax is None else match_site(softmax)
    except NoMatch as miss:
        ctx.missed(miss.op, NAME, miss.reason, miss.suggest)
        return
    if site is None:
        return
    with exponential.location:
        attributes = site.spec.attributes()
    composite = outline_composite(module.operation, NAME, site.ops, site.operands, site.result, attributes)
    ctx.count("attention raised")
    spec = site.spec
    ctx.passed(
        composite, NAME, causal=spec.is_causal, scale=spec.scale, softcap=spec.softcap, modifiers=len(spec.modifiers),
        escapes=spec.escapes, layouts=f"{spec.q}, {spec.k}, {spec.v} -> {spec.out}",
    )  # fmt: skip
