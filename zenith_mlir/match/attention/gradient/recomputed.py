"""A gradient that computes the probabilities anew, as under jax.checkpoint: there is no product with the values beside
it, so the values are found where their product with the cotangent is.
"""

from __future__ import annotations

from collections.abc import Iterator

from zenith_mlir.ir.facts import defining_op
from zenith_mlir.match.algebra.polynomial import NotPolynomial, Tensor
from zenith_mlir.match.attention.gradient.reader import AttentionReader
from zenith_mlir.match.attention.gradient.region import Region, downstream
from zenith_mlir.match.attention.gradient.sink import sink_of, weights
from zenith_mlir.match.attention.operands import Operand, absorb
from zenith_mlir.match.attention.products import ValueProduct, weighted_uses
from zenith_mlir.match.attention.site import Site, site_of
from zenith_mlir.match.attention.softmax import Softmax
from zenith_mlir.match.axes import axes_of, dot_operand_views, dot_other_view


def match_recomputed(softmax: Softmax) -> Site | None:
    """The attention around `softmax` without its result, if its block holds a gradient of it and no product with the
    values.

    Raises: NoMatch if the rest is no attention.
    """
    product = _value_product(softmax)
    return None if product is None else site_of(softmax, product)


def _value_product(softmax: Softmax) -> ValueProduct | None:
    space, block = softmax.space, softmax.block
    region = downstream(space, weights(softmax), softmax.view, block, {softmax.axis}, sink_of(softmax))
    for cotangent, values in _products_with_cotangent(softmax, region):
        for use in weighted_uses(softmax):
            other, _ = dot_other_view(space, use.dot, use.index, use.view)
            operand = Operand(use.dot.operands[1 - use.index], other)
            source = absorb(space, operand, block, scaling=False).operand
            if source.value == cotangent.value:
                weighted = use.dot.operands[use.index]
                return ValueProduct(use.dot, values, cotangent.view, use.ops, use.steps, weighted, is_computed=False)
    return None


def _products_with_cotangent(softmax: Softmax, region: Region) -> Iterator[tuple[Operand, Operand]]:
    """(cotangent, values) of products that meet the probabilities in what gradients multiply."""
    reader = AttentionReader(softmax, region.views)
    for use in region.uses:
        if use.op.name != "stablehlo.dot_general":
            continue
        try:
            atoms = reader.read(use.value, use.view).atoms()
        except NotPolynomial:
            continue
        for atom in atoms:
            yield from _split(softmax, atom) if isinstance(atom, Tensor) else ()


def _split(softmax: Softmax, atom: Tensor) -> Iterator[tuple[Operand, Operand]]:
    """The values are the factor that varies along the softmax axis, the cotangent the other."""
    dot = defining_op(atom.value)
    if dot is None or dot.name != "stablehlo.dot_general" or dot.block != softmax.block:
        return
    views = dot_operand_views(softmax.space, dot, atom.view)
    pair = [Operand(value, view) for value, view in zip(dot.operands, views, strict=True)]
    sides = [softmax.axis in axes_of(softmax.space.resolve_view(operand.view)) for operand in pair]
    if sides[0] != sides[1]:
        values, cotangent = pair if sides[0] else reversed(pair)
        yield absorb(softmax.space, cotangent, softmax.block, scaling=False).operand, values
