"""raise-matmul: products of 16-bit floats, with the bias, activation and residual that follow, become zenith.matmul."""

from __future__ import annotations

from dataclasses import dataclass

from zenith_mlir.context import PassContext
from zenith_mlir.dialects.matmul import NAME
from zenith_mlir.dialects.table import OPS
from zenith_mlir.ir.composites import walk_program
from zenith_mlir.ir.outline import outline_composite
from zenith_mlir.match.matmul import match_product
from zenith_mlir.module import Module
from zenith_mlir.registry import Pass, register


@register("raise-matmul")
@dataclass(frozen=True)
class RaiseMatmul(Pass):
    """Outline every product of bfloat16 or float16 operands, with what is added to it and applied to it next, into a
    `stablehlo.composite "zenith.matmul"`.

    Products of float32 are left alone: XLA's own are as fast as a kernel. So are all where the target has no kernel for
    them. Expects the canonical form, and attention to be raised before: its products belong to it.
    """

    def run(self, module: Module, ctx: PassContext) -> None:
        if not any(row.platform == ctx.target.platform for row in OPS[NAME].implementations):
            return
        for dot in walk_program(module.operation, "stablehlo.dot_general"):
            product = match_product(dot)
            if product is None:
                continue
            spec = product.spec
            with dot.location:
                attributes = spec.attributes()
            composite = outline_composite(
                module.operation, NAME, product.ops, product.operands, [product.result], attributes
            )
            ctx.count("products raised")
            ctx.passed(
                composite,
                NAME,
                layouts=f"{spec.lhs}, {spec.rhs} -> {spec.out}",
                steps=" ".join(step.kind for step in spec.steps),
            )
