"""fuse-attention: raise-attention and lower-kernels in one."""

from __future__ import annotations

from dataclasses import dataclass

from zenith_mlir.context import PassContext
from zenith_mlir.module import Module
from zenith_mlir.passes.inline_calls import InlineCalls
from zenith_mlir.passes.lower_kernels import LowerKernels
from zenith_mlir.passes.raise_attention import RaiseAttention
from zenith_mlir.passes.simplify import Simplify
from zenith_mlir.registry import Pass, option, register, run_in_turn


@register("fuse-attention")
@dataclass(frozen=True)
class FuseAttention(Pass):
    """Replace softmax(q kᵀ · scale + bias) v by one attention call.

    Brings the module into canonical form (inline-calls, simplify), raises every attention and lowers it to the target's
    kernel. Remarks carry the names of the passes that did the work.
    """

    min_seq: int | None = option(
        None, "leave attention whose longer sequence is shorter than this to XLA and fuse the rest, whatever it costs"
    )
    cost_model: bool = option(True, "leave what a kernel would make slower to XLA")

    def run(self, module: Module, ctx: PassContext) -> None:
        lower = LowerKernels(min_seq=self.min_seq, cost_model=self.cost_model)
        run_in_turn((InlineCalls(), Simplify(), RaiseAttention(), lower), module, ctx)
