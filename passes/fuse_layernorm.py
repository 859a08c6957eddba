"""fuse-layernorm: raise-layernorm and lower-kernels in one."""

from __future__ import annotations

from dataclasses import dataclass

from zenith_mlir.context import PassContext
from zenith_mlir.module import Module
from zenith_mlir.passes.inline_calls import InlineCalls
from zenith_mlir.passes.lower_kernels import LowerKernels
from zenith_mlir.passes.raise_layernorm import RaiseLayernorm
from zenith_mlir.passes.simplify import Simplify
from zenith_mlir.registry import Pass, option, register, run_in_turn


@register("fuse-layernorm")
@dataclass(frozen=True)
class FuseLayernorm(Pass):
    """Replace layer norms, RMS norms and their gradients by one kernel call each.

    Brings the module into canonical form (inline-calls, simplify), raises every norm and lowers it to the target's
    kernel. Remarks carry the names of the passes that did the work.
    """

    cost_model: bool = option(True, "leave what a kernel would make slower to XLA")

    def run(self, module: Module, ctx: PassContext) -> None:
        run_in_turn(
            (InlineCalls(), Simplify(), RaiseLayernorm(), LowerKernels(cost_model=self.cost_model)), module, ctx
        )
