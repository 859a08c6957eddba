"""simplify: the canonical form that matchers rely on."""

from __future__ import annotations

from dataclasses import dataclass

from jaxlib.mlir.passmanager import PassManager

from zenith_mlir.canonical import RULES, rewrite
from zenith_mlir.canonical.captures import capture_constants, merge_carried
from zenith_mlir.context import PassContext
from zenith_mlir.module import Module
from zenith_mlir.registry import Pass, register


@register("simplify")
@dataclass(frozen=True)
class Simplify(Pass):
    """Bring StableHLO into zenith's canonical form.

    Broadcast, reshape, transpose and convert chains are folded, arithmetic that does nothing (`max(-inf, x)`, `x * 1`)
    is dropped, splat constants are computed, constants stand on the right, masks are i1 predicates built from
    full-shape iotas, constants are taken out of what loops carry, and equal operations are merged. Numbers do not
    change: see `zenith_mlir.canonical`.
    """

    def run(self, module: Module, ctx: PassContext) -> None:
        ctx.count("constants captured", capture_constants(module.operation))
        for rule, times in rewrite(module.operation, RULES).items():
            ctx.count(rule, times)
        with module.context:
            cse = PassManager.parse("builtin.module(cse)")
            cse.run(module.operation)
            # Equal values are known to be equal only now.
            if merged := merge_carried(module.operation):
                ctx.count("values carried once", merged)
                cse.run(module.operation)
