"""raise-rotary: rotations of pairs of features become zenith.rotary, their gradients zenith.rotary_vjp."""

from __future__ import annotations

from dataclasses import dataclass

from jaxlib.mlir import ir

from zenith_mlir.context import PassContext
from zenith_mlir.dialects import rotary_vjp
from zenith_mlir.dialects.rotary import NAME
from zenith_mlir.ir.composites import walk_program
from zenith_mlir.ir.facts import enclosing, producer
from zenith_mlir.ir.outline import outline_composite
from zenith_mlir.match.repeated import behind_barrier, repetitions
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
        raised: list[tuple[ir.Operation, Site]] = []
        for ways in found:
            # A rotation backwards is a gradient where the program rotates forwards, too.
            site = next((way for way in ways if not way.transposed or _size(way) in forward), None)
            if site is None:
                ctx.missed(producer(ways[0].result), NAME, BACKWARDS)
            else:
                raised.append((_raise(module, site, made), site))
        again = _repeated(raised)
        for composite, site in reversed(raised):
            _report(ctx, composite, site, repeated=composite in again)
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


def _raise(module: Module, site: Site, made: Made) -> ir.Operation:
    with site.ops[-1].location:
        attributes = site.spec.to_attributes()
    operands, ops, result = site.prepare(made)
    return outline_composite(module.operation, _name(site), ops, operands, [result], attributes)


def _name(site: Site) -> str:
    return rotary_vjp.NAME if site.transposed else NAME


def _repeated(raised: list[tuple[ir.Operation, Site]]) -> set[ir.Operation]:
    """The rotations that are computed a second time, where their gradient is."""
    backward = [composite.block for composite, site in raised if site.transposed]

    def has_gradient(op: ir.Operation) -> bool:
        return op.block in backward and (enclosing(op, "stablehlo.while") is not None or behind_barrier(op))

    # One of the two may read its tables spread out further than the other.
    says = {op: f"{site.spec.x} {site.spec.table.axes} {site.spec.rotated} {op.results[0].type}" for op, site in raised}
    forward = [(op, has_gradient(op)) for op, site in reversed(raised) if not site.transposed]
    return repetitions(forward, says.__getitem__)


def _report(ctx: PassContext, composite: ir.Operation, site: Site, repeated: bool) -> None:
    """One remark a site; computing it again for the gradient does not make it two."""
    if repeated:
        ctx.count("rotations repeated for a gradient")
        ctx.analysis(composite, NAME, "computed a second time, for the gradient, as jax.checkpoint asks")
        return
    ctx.count("gradients of rotations raised" if site.transposed else "rotations raised")
    ctx.passed(
        composite,
        _name(site),
        layout=str(site.spec.x),
        table=str(site.spec.table),
        rotated=site.spec.rotated,
        pairing=site.spec.pairing,
    )
