"""raise-rotary: rotations of pairs of features become zenith.rotary, their gradients zenith.rotary_vjp."""

from __future__ import annotations

from dataclasses import dataclass

from jaxlib.mlir import ir

from zenith_mlir.context import PassContext
from zenith_mlir.dialects import rotary_vjp
from zenith_mlir.dialects.rotary import NAME
from zenith_mlir.ir.composites import walk_program
from zenith_mlir.ir.facts import producer
from zenith_mlir.ir.outline import outline_composite
from zenith_mlir.match.rotary import ANCHORS, BACKWARDS, Made, NoRotation, Site, match_rotary
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
        found, missed = _matches(module)
        forward = {_size(ways[0]) for ways in found if not ways[0].transposed}
        made: Made = {}
        for ways in found:
            # A rotation backwards is a gradient where the program rotates forwards, too.
            site = next((way for way in ways if not way.transposed or _size(way) in forward), None)
            if site is None:
                ctx.missed(producer(ways[0].result), NAME, BACKWARDS)
            else:
                _raise(module, site, made, ctx)
        for op, miss in missed:
            ctx.missed(op, NAME, str(miss))


def _matches(module: Module) -> tuple[list[list[Site]], list[tuple[ir.Operation, NoRotation]]]:
    """Rotations, last ones first, each in all ways to say it; and what resembles one, and why it is none."""
    found: list[list[Site]] = []
    missed: list[tuple[ir.Operation, NoRotation]] = []
    done: set[ir.Operation] = set()
    # The last operation of a rotation comes first: what it takes along is not looked at again.
    for anchor in reversed(walk_program(module.operation, *ANCHORS)):
        try:
            ways = [] if anchor in done else match_rotary(anchor)
        except NoRotation as miss:
            if not any(anchor in outer.ops for _, outer in missed):
                missed.append((anchor, miss))
            continue
        if ways:
            found.append(ways)
            done.update(op for way in ways for op in way.ops)
    results = {producer(ways[0].result) for ways in found}
    return found, [(op, miss) for op, miss in missed if results.isdisjoint(miss.ops)]


def _size(site: Site) -> tuple[int, str]:
    return site.spec.rotated, site.spec.pairing


def _raise(module: Module, site: Site, made: Made, ctx: PassContext) -> None:
    name = rotary_vjp.NAME if site.transposed else NAME
    with site.ops[-1].location:
        attributes = site.spec.to_attributes()
    operands, ops, result = site.prepare(made)
    composite = outline_composite(module.operation, name, ops, operands, [result], attributes)
    ctx.count("gradients of rotations raised" if site.transposed else "rotations raised")
    ctx.passed(
        composite,
        name,
        layout=str(site.spec.x),
        table=str(site.spec.table),
        rotated=site.spec.rotated,
        pairing=site.spec.pairing,
    )
