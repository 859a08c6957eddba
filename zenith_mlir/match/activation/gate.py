"""An activation times another tensor: act(gate) ∘ up, with gradients for both."""

from __future__ import annotations

from dataclasses import replace
from functools import cmp_to_key

from jaxlib.mlir import ir

from zenith_mlir.dialects import swiglu
from zenith_mlir.dialects.swiglu import SwigluSpec
from zenith_mlir.ir.facts import producer, users
from zenith_mlir.match.activation.cone import SCALES
from zenith_mlir.match.activation.operands import (
    biased,
    follows_short_product,
    gradient_of_halves,
    halves_of,
    is_tensor,
)
from zenith_mlir.match.activation.piece import Piece, Site, settled, used_outside
from zenith_mlir.match.activation.products import Product, linear_part, readings
from zenith_mlir.match.activation.reading import Reading


def gated_sites(reading: Reading, matmul: bool) -> list[Site]:
    """The activation with what it gates, first with its gradient if there is one, then alone.

    The first product with another tensor is the gate's; a later one that of the cotangent, for the gradient of the
    other half.
    """
    x, block = reading.x, reading.cone.block
    by_value = [p for p in reading.products if not p.derivative and is_tensor(p.operand, reading.cone.dims)]
    by_value.sort(key=cmp_to_key(lambda a, b: -1 if _is_before(a, b) else 1))
    forward = Piece.of([x, by_value[0].operand], [settled(by_value[0].value)], block) if by_value else None
    if forward is None:
        return []
    up = by_value[0].operand
    spec = SwigluSpec(reading.activation.kind, reading.activation.slope)
    later = (product for product in by_value[1:] if product.operand != up)
    gradients = (found for product in later if (found := _gradient(reading, up, product)) is not None)
    sites = [Site(swiglu.NAME, spec, used_outside(forward, found), found) for found in list(gradients)[:1]]
    if not (matmul and set(users(x)) <= set(forward.ops) and follows_short_product(x)):
        sites.append(Site(swiglu.NAME, spec, forward, None))
    return [_with_operands(site, x, up, block, matmul) for site in sites]


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
