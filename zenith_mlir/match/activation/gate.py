"""An activation times another tensor: act(gate) ∘ up, with gradients for both."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import cmp_to_key

from jaxlib.mlir import ir

from zenith_mlir.dialects import swiglu
from zenith_mlir.dialects.swiglu import SwigluSpec
from zenith_mlir.ir.cones import cone
from zenith_mlir.ir.facts import defined_by, producer, users
from zenith_mlir.match.activation.cone import SCALES
from zenith_mlir.match.activation.operands import (
    biased,
    follows_short_product,
    gradient_of_halves,
    halves_of,
    is_tensor,
)
from zenith_mlir.match.activation.piece import Piece, Site, narrowest, settled, used_outside
from zenith_mlir.match.activation.products import Product, linear_part, multiple_of, readings
from zenith_mlir.match.activation.reading import Reading


def gated_sites(reading: Reading, matmul: bool) -> list[Site]:
    """The activation with what it gates, first with its gradient if there is one, then alone.

    The first product with another tensor is the gate's; a later one that of the cotangent, for the gradient of the
    other half.
    """
    x, block = reading.x, reading.cone.block
    by_value = [p for p in reading.products if not p.derivative and is_tensor(p.operand, reading.cone.dims)]
    by_value.sort(key=cmp_to_key(lambda a, b: -1 if _is_before(a, b) else 1))
    spec = SwigluSpec(reading.activation.kind, reading.activation.slope)
    pieces: list[tuple[ir.Value, Piece | None, Piece | None]] = []
    for up, product in _roles(reading, by_value):
        gradient = _gradient(reading, up, product)
        if gradient is not None:
            forward = next((_forward(reading, p) for p in by_value if p.operand == up), None)
            pieces.append((up, used_outside(forward, gradient), gradient))
            break
    alone = _forward(reading, by_value[0]) if by_value else None
    if alone is not None and not (matmul and set(users(x)) <= set(alone.ops) and follows_short_product(x)):
        pieces.append((by_value[0].operand, alone, None))
    return [_with_operands(Site(swiglu.NAME, spec, *both), x, up, block, matmul) for up, *both in pieces]


def _forward(reading: Reading, product: Product) -> Piece | None:
    return Piece.of([reading.x, product.operand], [settled(product.value)], reading.cone.block)


def _roles(reading: Reading, by_value: list[Product]) -> Iterator[tuple[ir.Value, Product]]:
    """What may be up, with the product of the activation and the cotangent that then is the gradient of up.

    Up is multiplied by the activation before the cotangent is; or, where a later loop holds the backward, only by the
    cotangent, for the gradient of the activation.
    """
    for i, product in enumerate(by_value):
        yield from ((p.operand, product) for p in by_value[:i] if p.operand != product.operand)
    known = {multiple_of(p.operand): p for p in by_value}
    for of_gradient in (p for p in reading.products if p.derivative):
        op = defined_by(of_gradient.operand, "stablehlo.multiply")
        for cotangent, up in [] if op is None else [tuple(op.operands), tuple(reversed(list(op.operands)))]:
            found = known.get(multiple_of(cotangent))
            if found is not None and multiple_of(up) not in known and not _follows(up, producer(found.value)):
                yield narrowest(up), found


def _follows(value: ir.Value, op: ir.Operation) -> bool:
    """Whether `value` is computed from what `op` computes: then that is no gradient, and `value` the cotangent."""

    def enter(_: ir.Value, above: ir.Operation | None) -> bool:
        return above is not None and above.block == op.block and not above.is_before_in_block(op)

    return op in cone([value], (), enter)


def _is_before(a: Product, b: Product) -> bool:
    return bool(producer(a.value).is_before_in_block(producer(b.value)))


def _gradient(reading: Reading, up: ir.Value, product: Product) -> Piece | None:
    """d_gate = g up act'(gate) beside d_up = g act(gate), which is `product`."""
    cotangent = product.operand
    base = reading.cone.extended(up, SCALES[:, None])
    both = base.extended(cotangent, SCALES[:, None, None])
    for value, sample in both.deep_values(base):
        at = linear_part(sample.at) if sample.at.ndim == 3 else None
        if at is None:
            continue
        for derivative, factor, _ in readings(at, sample, reading.activation, reading.narrow):
            if derivative and abs(factor - 1) < 0.01:
                results = [settled(value), settled(product.value)]
                return Piece.of([reading.x, up, cotangent], results, reading.cone.block)
    return None


def _with_operands(site: Site, gate: ir.Value, up: ir.Value, block: ir.Block, matmul: bool) -> Site:
    """With halves read in place where they are, and biases."""
    whole = _with_halves(site, gate, up, block)
    sources = [gate, up] if whole is None else [halves[0]] if (halves := halves_of(gate, up)) is not None else []
    site = site if whole is None else whole
    sums = {value: bias for value in sources if (bias := biased(value, matmul)) is not None}
    fits = len(sums) == len(sources) and all(site.uses_alone(value) for value in sums)
    return site.with_biases(sums, block) if fits else site


def _with_halves(site: Site, gate: ir.Value, up: ir.Value, block: ir.Block) -> Site | None:
    """Gate and up as halves of one operand, and the gradient of that; None if they are not, or have not one."""
    halves = halves_of(gate, up)
    if halves is None:
        return None
    source, order = halves
    pieces: list[Piece | None] = [site.forward and Piece.of([source], site.forward.results, block)]
    if site.gradient is not None:
        dx = gradient_of_halves(site.gradient.results, order)
        joined = None if dx is None else Piece.of([source, site.gradient.operands[-1]], [dx], block)
        if joined is None:
            return None
        pieces.append(joined)
    assert isinstance(site.spec, SwigluSpec)
    spec = replace(site.spec, halves=order)
    return Site(site.name, spec, pieces[0], pieces[1] if len(pieces) > 1 else None)
