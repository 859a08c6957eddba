"""expand-composites: zenith.* composites become their original code again."""

from __future__ import annotations

from dataclasses import dataclass

from zenith_mlir.context import PassContext
from zenith_mlir.ir.composites import expand, zenith_composites
from zenith_mlir.ir.symbols import drop_unused_private_functions
from zenith_mlir.module import Module
from zenith_mlir.registry import Pass, register


@register("expand-composites")
@dataclass(frozen=True)
class ExpandComposites(Pass):
    """Inline the decomposition of every zenith.* composite.

    Raising and then expanding gives the program back, bit for bit.
    """

    def run(self, module: Module, ctx: PassContext) -> None:
        with module.context:
            composites = zenith_composites(module.operation)
            ctx.count("composites expanded", len(composites))
            expand(composites, module.operation)
            drop_unused_private_functions(module.operation)
