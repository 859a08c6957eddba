"""raise-rotary: rotations of pairs of features become zenith.rotary, their gradients zenith.rotary_vjp."""

from __future__ import annotations

from dataclasses import dataclass

from jaxlib.mlir import ir

from zenith_mlir.context import PassContext
from zenith_mlir.dialects import rotary_vjp
from zenith_mlir.dialects.rotary import NAME
from zenith_mlir.ir.composites import walk_program
from zenith_mlir.ir.outline import outline_composite
from zenith_mlir.match.rotary import ANCHORS, NoRotation, Site, match_rotary
from zenith_mlir.module import Module
from zenith_mlir.registry import Pass, register


@register("raise-rotary")
@dataclass(frozen=True)
class RaiseRotary(Pass):
    """Outline every rotary position embedding into a `stablehlo.composite "zenith.rotary"`, and every gradient of one
    into a "zenith.rotary_vjp".

    A rotation is found by its coefficients: what each feature of the result is made of, as a sum of products of one
    feature of x and one column of a table, in whatever way halves, neighbours or complex numbers were taken apart and
    put together. The matched operations move, unchanged, into the decomposition: raising changes no number. Expects the
    canonical form (run `prepare` before).
    """

    def run(self, module: Module, ctx: PassContext) -> None:
        sites: list[Site] = []
        failures: list[tuple[ir.Operation, NoRotation]] = []
        done: set[ir.Operation] = set()
        # The last operation of a rotation comes first: what it takes along is not looked at again.
        for anchor in reversed(walk_program(module.operation, *ANCHORS)):
            if anchor in done:
                continue
            try:
                site = match_rotary(anchor)
            except NoRotation as miss:
                failures.append((anchor, miss))
                continue
            if site is not None:
                sites.append(site)
                done.update(site.ops)
        for anchor, miss in failures:
            ctx.missed(anchor, NAME, str(miss))
        for site in sites:
            _raise(module, site, ctx)


def _raise(module: Module, site: Site, ctx: PassContext) -> None:
    name = rotary_vjp.NAME if site.transposed else NAME
    with site.ops[-1].location:
        attributes = site.spec.to_attributes()
    composite = outline_composite(module.operation, name, site.ops, site.operands, [site.result], attributes)
    ctx.count("gradients of rotations raised" if site.transposed else "rotations raised")
    ctx.passed(
        composite,
        name,
        layout=str(site.spec.x),
        table=str(site.spec.table),
        rotated=site.spec.rotated,
        pairing=site.spec.pairing,
    )
