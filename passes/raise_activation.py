"""raise-activation: GELU, SiLU and gates made of them become composites, forward and backward."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from jaxlib.mlir import ir

from zenith_mlir.context import PassContext
from zenith_mlir.dialects import gelu
from zenith_mlir.dialects.matmul import NAME as MATMUL
from zenith_mlir.dialects.swiglu import SwigluSpec
from zenith_mlir.dialects.table import OPS
from zenith_mlir.ir.composites import composite_name, walk_program
from zenith_mlir.ir.outline import outline_composite
from zenith_mlir.ir.stacks import loop_around
from zenith_mlir.match.activation.near_miss import NearMiss
from zenith_mlir.match.activation.piece import Piece, Site
from zenith_mlir.match.activation.site import match_site
from zenith_mlir.match.activation.stacked import recompute_stacked
from zenith_mlir.match.placement import first_user
from zenith_mlir.match.repeated import repetitions
from zenith_mlir.module import Module
from zenith_mlir.passes.simplify import Simplify
from zenith_mlir.registry import Pass, register

_SEEDS = ("chlo.erf", "chlo.erfc")
_NATIVE = ("stablehlo.tanh", "stablehlo.logistic", "stablehlo.exponential")


@register("raise-activation")
@dataclass(frozen=True)
class RaiseActivation(Pass):
    """Outline every GELU (of erf, erfc or tanh) and SiLU (of any slope) into a `stablehlo.composite "zenith.gelu"` or
    "zenith.silu", with a bias that is added before; times another tensor it is a "zenith.swiglu". Where the program has
    the gradient, that becomes a composite of its own, named with `_vjp`.

    What the program computes of one tensor is compared with the activations at some points, so its spelling plays no
    part. The matched operations move, unchanged, into the decomposition: raising changes no number. Expects the
    canonical form (run `prepare` before) and attention to be raised before: its exponentials belong to it.
    """

    def run(self, module: Module, ctx: PassContext) -> None:
        matmul = any(row.platform == ctx.target.platform for row in OPS[MATMUL].implementations)
        seeds = _seeds(module)
        while _recompute(seeds, ctx):
            Simplify().run(module, ctx)
            seeds = _seeds(module)
        position = {op: i for i, op in enumerate(seeds)}
        taken: set[int] = set()
        without: set[ir.Value] = set()
        missed: set[ir.Operation] = set()
        raised: list[tuple[ir.Operation, Site]] = []
        for i, seed in enumerate(seeds):
            site = None if i in taken else match_site(seed, matmul, without)
            if isinstance(site, NearMiss):
                if site.op not in missed:
                    ctx.missed(site.op, site.name, site.reason)
                    missed.add(site.op)
                continue
            if site is None:
                continue
            taken |= {position[op] for op in site.ops if op in position}
            if site.gradient is not None:
                _report_gradient(ctx, _outline(module, site, site.gradient, "_vjp"), site)
            if site.forward is not None:
                raised.append((_outline(module, site, site.forward), site))
        again = repetitions([(composite, site.gradient is not None) for composite, site in raised])
        for composite, site in raised:
            _report(ctx, composite, site, repeated=composite in again)


def _recompute(seeds: list[ir.Operation], ctx: PassContext) -> bool:
    """Let the backward of a scan compute what it needs of x instead of reading it from stacks: then it can be found.

    Returns: whether there was such a thing; then some of `seeds` may be gone.
    """
    for seed in seeds:
        loop = loop_around(seed)
        count = 0 if loop is None else recompute_stacked(loop, seed)
        ctx.count("residuals recomputed", count)
        if count:
            return True
    return False


def _seeds(module: Module) -> list[ir.Operation]:
    found = walk_program(module.operation, *_SEEDS, *_NATIVE, "stablehlo.composite", "stablehlo.custom_call")
    return [op for op in found if _is_seed(op)]


def _is_seed(op: ir.Operation) -> bool:
    if op.name == "stablehlo.composite":
        return composite_name(op) in _SEEDS
    if op.name == "stablehlo.custom_call":
        return ir.StringAttr(op.attributes["call_target_name"]).value in ("mhlo.erf", "mhlo.erfc")
    return True


def _outline(module: Module, site: Site, piece: Piece, suffix: str = "") -> ir.Operation:
    before = first_user(piece.results, piece.ops[-1].block) if len(piece.results) > 1 else None
    with piece.ops[-1].location:
        attributes = site.spec.to_attributes()
    name = site.name + suffix
    return outline_composite(module.operation, name, piece.ops, piece.operands, piece.results, attributes, before)


def _site_name(site: Site) -> str:
    """A gate made of GELU counts as a GELU."""
    return gelu.NAME if site.spec.activation.startswith("gelu") else site.name


def _report(ctx: PassContext, composite: ir.Operation, site: Site, repeated: bool) -> None:
    """One remark a site; computing it again for the gradient does not make it two."""
    if repeated:
        ctx.count("activations repeated for a gradient")
        ctx.analysis(composite, _site_name(site), "computed a second time, for the gradient, as jax.checkpoint asks")
        return
    ctx.count("activations raised")
    ctx.passed(composite, _site_name(site), **_facts(site))


def _report_gradient(ctx: PassContext, composite: ir.Operation, site: Site) -> None:
    ctx.count("activation gradients raised")
    ctx.passed(composite, f"{_site_name(site)}_vjp", **_facts(site))


def _facts(site: Site) -> dict[str, Any]:
    spec = site.spec
    facts: dict[str, Any] = {"activation": spec.activation}
    if spec.activation == "silu":
        facts["slope"] = spec.slope
    if isinstance(spec, SwigluSpec):
        facts["halves"] = spec.halves
    return facts | {"gated": isinstance(spec, SwigluSpec), "bias": spec.bias, "escapes": spec.escapes}
