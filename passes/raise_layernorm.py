"""raise-layernorm: layer norms and RMS norms become zenith.layer_norm and zenith.rms_norm, their gradients the _vjp of
these.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from jaxlib.mlir import ir

from zenith_mlir.context import PassContext
from zenith_mlir.dialects.group_norm import GroupNormSpec
from zenith_mlir.dialects.norm import NormVjpSpec
from zenith_mlir.ir.composites import walk_program
from zenith_mlir.ir.facts import users, walk
from zenith_mlir.ir.outline import outline_composite
from zenith_mlir.ir.stacks import NotStacked, loop_around
from zenith_mlir.match.nomatch import NoMatch
from zenith_mlir.match.norm.forward import Parts, parts
from zenith_mlir.match.norm.gradient import gradient
from zenith_mlir.match.norm.misses import why_not
from zenith_mlir.match.norm.site import BACKWARD, FORWARD, Site, backward_site, forward_site, group_site
from zenith_mlir.match.norm.stacked import recompute_stacked
from zenith_mlir.match.norm.statistics import ROOTS, Statistics, before_reshape, statistics
from zenith_mlir.match.repeated import repetitions
from zenith_mlir.module import Module
from zenith_mlir.passes.simplify import Simplify
from zenith_mlir.registry import Pass, option, register

Position = Callable[[ir.Operation], int]


@register("raise-layernorm")
@dataclass(frozen=True)
class RaiseLayernorm(Pass):
    """Outline every layer norm and RMS norm into a `stablehlo.composite "zenith.layer_norm"` or "zenith.rms_norm", and
    where the program has its gradient, that into the `_vjp`. Norms over other axes than the last (groups, instances)
    become "zenith.group_norm".

    What is compared is what the program computes, as a polynomial in x, its sums and the root of its variance: the
    variance may come from one pass or two, the affine part in any order, statistics in float32 around narrower data. A
    residual that is added just before belongs to the op. Expects the canonical form (run `prepare` before).
    """

    gradients: bool = option(True, "look for the gradients of norms as well; takes most of the time")

    def run(self, module: Module, ctx: PassContext) -> None:
        if self.gradients:
            _recompute(module, ctx)
        position = _positions(module)
        roots = walk_program(module.operation, *ROOTS)
        # A site takes roots along (a gradient has its own) and erases them: those must not be looked at again.
        places, taken = {root: i for i, root in enumerate(roots)}, set[int]()
        raised: list[tuple[ir.Operation, Site, bool]] = []
        for i, root in enumerate(roots):
            found = None if i in taken else statistics(root)
            if found is None:
                continue
            for site, has_gradient in _sites(found, root, ctx, position, self.gradients):
                taken |= {places[op] for op in site.ops if op in places}
                raised.append((_outline(module, site), site, has_gradient))
        forward = [(composite, gradient) for composite, site, gradient in raised if not _is_gradient(site)]
        again = repetitions(forward)
        for composite, site, _ in raised:
            _report(ctx, composite, site, composite in again)


def _recompute(module: Module, ctx: PassContext) -> None:
    """Let the backward of a scan compute what it needs of a norm from x instead of reading it from stacks: then root
    and gradient meet in one block.
    """
    kept: list[tuple[ir.Operation, str]] = []
    for _ in walk_program(module.operation, *ROOTS):
        # What is recomputed takes roots along: they are looked up again.
        roots, position = walk_program(module.operation, *ROOTS), _positions(module)
        kept.clear()
        count = next((n for root in roots if (n := _recompute_stacked(root, position, kept))), 0)
        ctx.count("residuals recomputed", count)
        if not count:
            break
        Simplify().run(module, ctx)
    for root, name in kept:
        reason = "its loop keeps what lies inside of the norm for the gradient, and cannot keep what it normalises"
        ctx.missed(root, name, reason)


def _recompute_stacked(root: ir.Operation, position: Position, kept: list[tuple[ir.Operation, str]]) -> int:
    """Returns how many reads were replaced; where that cannot be, the root joins `kept`."""
    loop = loop_around(root)
    found = None if loop is None else statistics(root)
    if loop is None or found is None or not found.is_trailing:
        return 0
    try:
        return recompute_stacked(loop, found, parts(found, root, position))
    except (NotStacked, NoMatch):
        kept.append((root, BACKWARD[found.centred].OP))
        return 0


def _positions(module: Module) -> Position:
    """Where in the program an operation stands; those that are added later count as first."""
    order = {op: i for i, op in enumerate(walk(module.operation))}
    return lambda op: order.get(op, 0)


def _sites(
    found: Statistics, root: ir.Operation, ctx: PassContext, position: Position, gradients: bool
) -> Iterator[tuple[Site, bool]]:
    """What is normalised with a root, the gradient first, and whether there is one; each is outlined before the next
    is asked for.
    """
    below = parts(found, root, position)
    if not found.is_trailing:
        yield from ((site, False) for site in _group_sites(found, below, root, position))
        return
    reason = why_not(found, below, root)
    if reason is not None:
        ctx.missed(root, FORWARD[found.centred].OP, *reason)
    backward = _match_gradient(found, below, ctx, position) if gradients else None
    inside = set() if backward is None else set(backward.ops)
    norms = [norm for norm in below.norms if any(user not in inside for user in users(norm.result))]
    if backward is not None:
        yield backward, True
    for norm in norms:
        try:
            yield forward_site(found, norm), backward is not None
        except NoMatch as miss:
            ctx.missed(miss.op, FORWARD[found.centred].OP, miss.reason, miss.suggest)


def _group_sites(found: Statistics, below: Parts, root: ir.Operation, position: Position) -> Iterator[Site]:
    """Norms over axes that are not the last; gradients of these are not looked for."""
    source = before_reshape(found, root)
    if source is not None and (of_source := parts(source, root, position)).norms:
        found, below = source, of_source
    if not found.is_of_the_batch:
        for norm in below.norms:
            with contextlib.suppress(NoMatch):
                yield group_site(found, norm)


def _match_gradient(found: Statistics, below: Parts, ctx: PassContext, position: Position) -> Site | None:
    matched = gradient(found, below, position)
    try:
        return None if matched is None else backward_site(found, matched)
    except NoMatch as miss:
        ctx.missed(miss.op, BACKWARD[found.centred].OP, miss.reason, miss.suggest)
        return None


def _outline(module: Module, site: Site) -> ir.Operation:
    with site.before.location:
        attributes = site.spec.to_attributes()
    return outline_composite(
        module.operation, site.spec.OP, site.ops, site.operands, site.results, attributes, site.before
    )


def _is_gradient(site: Site) -> bool:
    return isinstance(site.spec, NormVjpSpec)


def _report(ctx: PassContext, composite: ir.Operation, site: Site, repeated: bool) -> None:
    """One remark a site; computing it again for the gradient does not make it two."""
    spec = site.spec
    facts: dict[str, Any] = {"epsilon": spec.epsilon, "weight": bool(spec.weight), "bias": bool(spec.bias)}
    if repeated:
        ctx.count("norms repeated for a gradient")
        ctx.analysis(composite, spec.OP, "computed a second time, for the gradient, as jax.checkpoint asks")
    elif isinstance(spec, NormVjpSpec):
        ctx.count("norm gradients raised")
        ctx.passed(composite, spec.OP, gradients=", ".join(spec.result_names), **facts)
    elif isinstance(spec, GroupNormSpec):
        ctx.count("norms raised")
        ctx.passed(composite, spec.OP, x=str(spec.x), normalised=" ".join(spec.normalised), **facts)
    else:
        ctx.count("norms raised")
        ctx.passed(composite, spec.OP, **facts, offset=spec.offset, residual=spec.residual)
