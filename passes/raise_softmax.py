"""raise-softmax: softmax and log-softmax that are no attention become zenith.softmax and zenith.log_softmax composites,
their gradients zenith.softmax_vjp and zenith.log_softmax_vjp.
"""

from __future__ import annotations

from dataclasses import dataclass

from jaxlib.mlir import ir

from zenith_mlir.context import PassContext
from zenith_mlir.dialects import softmax
from zenith_mlir.ir.composites import walk_program, zenith_composites
from zenith_mlir.ir.facts import element_type, has_static_shape, is_float, shape
from zenith_mlir.match.nomatch import NoMatch
from zenith_mlir.match.softmax import Site, match_softmax
from zenith_mlir.match.softmax.escaping import escaping_attentions, is_left_behind
from zenith_mlir.match.softmax.outlining import outline_forward, outline_gradient
from zenith_mlir.module import Module
from zenith_mlir.registry import Pass, register


@register("raise-softmax")
@dataclass(frozen=True)
class RaiseSoftmax(Pass):
    """Outline every softmax and log-softmax along the last dimension into a `stablehlo.composite "zenith.softmax"` or
    "zenith.log_softmax", and where the program has its gradient, that into a "zenith.softmax_vjp" or
    "zenith.log_softmax_vjp", which takes the result and its cotangent.

    Expects the canonical form, and attention and cross-entropy to be raised before: their softmaxes are theirs. A
    softmax whose exponentials are used beside it, or that runs over another dimension, is left alone, with a remark.
    """

    def run(self, module: Module, ctx: PassContext) -> None:
        exponentials = walk_program(module.operation, "stablehlo.exponential")
        position = {op: i for i, op in enumerate(exponentials)}
        # A match takes further exponentials along and erases them: those must not be looked at again.
        taken: set[int] = set()
        attentions = escaping_attentions(zenith_composites(module.operation))
        for i, exponential in enumerate(exponentials):
            skipped = i in taken or is_left_behind(exponential, attentions)
            site = None if skipped else _match(exponential, ctx)
            if site is None:
                continue
            taken |= {position[op] for op in site.ops if op in position}
            # What the gradient no longer needs goes with the forward.
            if site.gradient is not None:
                composite, spec = outline_gradient(module.operation, site)
                ctx.count("gradients of softmaxes raised")
                ctx.passed(composite, spec.OP, scale=spec.scale)
            composite, spec = outline_forward(module.operation, site)
            ctx.count("softmaxes raised")
            ctx.passed(composite, spec.OP, scale=spec.scale, columns=shape(composite.results[0])[-1])


def _match(exponential: ir.Operation, ctx: PassContext) -> Site | None:
    value = exponential.results[0]
    if not has_static_shape(value) or 0 in shape(value) or not is_float(element_type(value)) or not shape(value):
        return None
    try:
        return match_softmax(exponential)
    except NoMatch as miss:
        ctx.missed(miss.op, softmax.NAME, miss.reason, miss.suggest)
        return None
