"""raise-cross-entropy: the loss of logits against integer labels becomes a zenith.cross_entropy composite, its gradient
a zenith.cross_entropy_vjp.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from jaxlib.mlir import ir

from zenith_mlir.context import PassContext
from zenith_mlir.dialects import cross_entropy, cross_entropy_vjp
from zenith_mlir.ir.composites import walk_program
from zenith_mlir.ir.facts import element_type, has_static_shape, is_float, shape
from zenith_mlir.match.cross_entropy import Site, match_cross_entropy
from zenith_mlir.match.cross_entropy.outlining import outline_gradient, outline_loss
from zenith_mlir.match.nomatch import NoMatch
from zenith_mlir.match.repeated import repetitions
from zenith_mlir.module import Module
from zenith_mlir.registry import Pass, register


@register("raise-cross-entropy")
@dataclass(frozen=True)
class RaiseCrossEntropy(Pass):
    """Outline every cross-entropy of logits against integer labels, one number a row, into a `stablehlo.composite
    "zenith.cross_entropy"`, and its gradient into a "zenith.cross_entropy_vjp", which needs of the forward the maximum
    and the sum of each row and no softmax.

    One-hot matrices, gathers, label smoothing and z-losses are read off the program and stated as attributes; weights,
    masks and means of the losses stay outside. Expects the canonical form, and attention to be raised before. Where the
    softmax or its logarithm is used elsewhere, it is computed anyway, and the loss is left alone.
    """

    def run(self, module: Module, ctx: PassContext) -> None:
        exponentials = walk_program(module.operation, "stablehlo.exponential")
        position = {op: i for i, op in enumerate(exponentials)}
        # A match takes further exponentials along and erases them: those must not be looked at again.
        taken: set[int] = set()
        raised: list[tuple[ir.Operation, cross_entropy.CrossEntropySpec, bool]] = []
        for i, exponential in enumerate(exponentials):
            site = None if i in taken else _match(exponential, ctx)
            if site is None:
                continue
            taken |= {position[op] for op in site.ops if op in position}
            loss = None if site.loss is None else outline_loss(module.operation, site)
            if loss is not None:
                raised.append((loss.composite, loss.spec, site.gradient is not None))
            if site.gradient is not None:
                composite, vjp_spec = outline_gradient(module.operation, site, loss)
                ctx.count("gradients of cross-entropies raised")
                ctx.passed(
                    composite, cross_entropy_vjp.NAME, recomputes=not vjp_spec.residuals, **_facts(composite, vjp_spec)
                )
        again = repetitions([(composite, has_gradient) for composite, _, has_gradient in raised])
        for composite, spec, _ in raised:
            _report(ctx, composite, spec, repeated=composite in again)


def _report(ctx: PassContext, composite: ir.Operation, spec: cross_entropy.CrossEntropySpec, repeated: bool) -> None:
    """One remark a site; computing it again for the gradient does not make it two."""
    if repeated:
        ctx.count("cross-entropies repeated for a gradient")
        ctx.analysis(composite, spec.OP, "computed a second time, for the gradient, as jax.checkpoint asks")
        return
    ctx.count("cross-entropies raised")
    ctx.passed(composite, spec.OP, **_facts(composite, spec))


def _match(exponential: ir.Operation, ctx: PassContext) -> Site | None:
    value = exponential.results[0]
    if not has_static_shape(value) or 0 in shape(value) or not is_float(element_type(value)) or not shape(value):
        return None
    try:
        return match_cross_entropy(exponential)
    except NoMatch as miss:
        ctx.missed(miss.op, cross_entropy.NAME, miss.reason, miss.suggest)
        return None


def _facts(composite: ir.Operation, spec: cross_entropy.CrossEntropySpec) -> dict[str, Any]:
    return {
        "columns": shape(composite.operands[0])[-1],
        "smoothing": spec.smoothing,
        "z_loss": spec.z_loss,
        "outside": spec.outside,
    }
