"""An activation in a program: what is replaced by one composite, and by a second one for its gradient.

The activation is that of `x` where a value of the cone of x (cone.py) is its function at all points. What multiplies it
may be the other half of a gate; what multiplies its derivative is the cotangent (products.py). Which value plays which
role is told by comparing numbers, so the order in which a program, or its differentiation, multiplies does not matter.
"""

from __future__ import annotations

from collections.abc import Container
from dataclasses import replace

from jaxlib.mlir import ir

from zenith_mlir.dialects import gelu, silu
from zenith_mlir.dialects.gelu import GeluSpec
from zenith_mlir.dialects.silu import SiluSpec
from zenith_mlir.ir.facts import producer, users
from zenith_mlir.match.activation.cone import Cone, origins
from zenith_mlir.match.activation.gate import gated_sites
from zenith_mlir.match.activation.known import Activation
from zenith_mlir.match.activation.near_miss import NearMiss, near_miss
from zenith_mlir.match.activation.operands import biased
from zenith_mlir.match.activation.piece import Piece, Site, Spec, narrowest, settled, used_outside
from zenith_mlir.match.activation.reading import Reading


def match_site(seed: ir.Operation, matmul: bool, without: set[ir.Value]) -> Site | NearMiss | None:
    """The activation that the exponential, or a function made of it, `seed` is part of. Tensors in `without` are known
    to have none, and what is found to have none is added.

    `matmul`: what follows products of 16-bit floats, bias and gate, belongs to zenith.matmul.
    """
    cones: list[Cone] = []
    reading = find_reading(seed, cones, without)
    if reading is not None:
        # The derivative may agree within its tolerance where the function beside it does not.
        miss = None if reading.values else near_miss(reading.cone, seed)
        return miss or _site(reading, matmul)
    without.update(cone.roots[0] for cone in cones)
    return next((miss for cone in cones if (miss := near_miss(cone, seed)) is not None), None)


def find_reading(
    seed: ir.Operation, others: list[Cone] | None = None, without: Container[ir.Value] = ()
) -> Reading | None:
    """The cone that holds an activation made by `seed`, or only products with one; `others` gets cones that do not."""
    products_only: Reading | None = None
    for x in origins(seed.operands[0], seed.block):
        if x in without:
            continue
        cone = Cone.of(x, seed.block)
        reading = Reading.of(cone)
        if reading is None:
            if others is not None:
                others.append(cone)
        elif reading.values:
            return _from_the_narrowest(reading)
        else:
            products_only = products_only or reading
    return None if products_only is None else _from_the_narrowest(products_only)


def _from_the_narrowest(reading: Reading) -> Reading | None:
    """The reading that starts where x has the fewest bits."""
    outer = narrowest(reading.x)
    return reading if outer == reading.x else Reading.of(Cone.of(outer, reading.cone.block))


def _site(reading: Reading, matmul: bool) -> Site | None:
    """The first reading that leaves nothing of the activation's inside to others, else the last."""
    sites = [*gated_sites(reading, matmul), *_plain(reading, matmul)]
    clean = (site for site in sites if not _escapes(reading, site))
    last = [replace(site, spec=replace(site.spec, escapes=True)) for site in sites[-1:]]
    return next(clean, last[0] if last else None)


def _escapes(reading: Reading, site: Site) -> bool:
    """Whether something beside the site uses what follows from an exponential in it."""
    ops, results = site.ops, site.results
    inside = (v for v, _ in reading.cone.deep_values() if v not in results and producer(v) in ops)
    return any(user not in ops and _is_alive(user) for value in inside for user in users(value))


def _is_alive(op: ir.Operation) -> bool:
    return not op.results or bool(op.regions) or any(True for result in op.results for _ in result.uses)


def _plain(reading: Reading, matmul: bool) -> list[Site]:
    x, block = reading.x, reading.cone.block
    gradient = None
    for product in (p for p in reading.products if p.derivative):
        gradient = gradient or Piece.of([x, product.operand], [settled(product.value)], block)
    forward = Piece.of([x], [settled(reading.values[0])], block) if reading.values else None
    forward = used_outside(forward, gradient)
    if forward is None and gradient is None:
        return []
    site = Site(*_named(reading.activation), forward, gradient)
    bias = biased(x, matmul)
    return [site if bias is None or not site.uses_alone(x) else site.with_biases({x: bias}, block)]


def _named(activation: Activation) -> tuple[str, Spec]:
    if activation.kind == "silu":
        return silu.NAME, SiluSpec(activation.slope)
    return gelu.NAME, GeluSpec("none" if activation.kind == "gelu" else "tanh")
