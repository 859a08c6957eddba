"""Composites in the place of a softmax, or its logarithm, and of its gradient."""

from __future__ import annotations

from jaxlib.mlir import ir

from zenith_mlir.canonical import build
from zenith_mlir.dialects import log_softmax, log_softmax_vjp, softmax, softmax_vjp
from zenith_mlir.ir.facts import element_type, producer, shape
from zenith_mlir.ir.outline import outline_composite
from zenith_mlir.match.cross_entropy.rows import chain, scaled, typed
from zenith_mlir.match.placement import first_user
from zenith_mlir.match.softmax.site import Site

Spec = softmax.SoftmaxSpec | softmax_vjp.SoftmaxVjpSpec
_SPECS = {False: softmax.SoftmaxSpec, True: log_softmax.LogSoftmaxSpec}
_VJP_SPECS = {False: softmax_vjp.SoftmaxVjpSpec, True: log_softmax_vjp.LogSoftmaxVjpSpec}


def outline_forward(module: ir.Operation, site: Site) -> tuple[ir.Operation, Spec]:
    forward = site.forward
    spec = _SPECS[forward.log](scale=forward.scale)
    with producer(forward.value).location:
        attributes = spec.to_attributes()
    spec.verify([shape(forward.x)], [shape(forward.value)])
    composite = outline_composite(module, spec.OP, forward.ops, [forward.x], [forward.value], attributes)
    return composite, spec


def outline_gradient(module: ir.Operation, site: Site) -> tuple[ir.Operation, Spec]:
    """The composite of the gradient, which takes the result of the forward."""
    gradient, y = site.gradient, site.forward.value
    assert gradient is not None
    spec = _VJP_SPECS[site.forward.log](scale=gradient.scale)
    before = first_user([gradient.value], producer(gradient.value).block)
    used = {operand for op in gradient.ops for operand in op.operands}
    ops: list[ir.Operation] = []
    aliases: dict[ir.Value, ir.Value] = {}
    with before.location, ir.InsertionPoint(before):
        attributes = spec.to_attributes()
        if site.exponentials in used:
            p = typed(y, element_type(site.exponentials))
            p = build.elementwise("exponential", p) if site.forward.log else p
            aliases[site.exponentials] = p
            ops += chain(p, y)
        if site.rows.total in used:
            one = build.splat_constant(site.rows.total.type, 1.0)
            aliases[site.rows.total] = one
            ops.append(producer(one))
        for value, factor in gradient.multiples.items():
            multiple = typed(scaled(gradient.dy, factor), element_type(value))
            aliases[value] = multiple
            ops += chain(multiple, gradient.dy)
    operands = [y, gradient.dy]
    spec.verify([shape(value) for value in operands], [shape(gradient.value)])
    composite = outline_composite(
        module, spec.OP, [*ops, *gradient.ops], operands, [gradient.value], attributes, before, aliases=aliases
    )
    return composite, spec
