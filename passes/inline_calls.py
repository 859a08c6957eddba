"""inline-calls: every private function is inlined where it is called."""

from __future__ import annotations

from dataclasses import dataclass

from zenith_mlir.context import PassContext
from zenith_mlir.ir.inline import inline_all_calls
from zenith_mlir.module import Module
from zenith_mlir.registry import Pass, register


@register("inline-calls")
@dataclass(frozen=True)
class InlineCalls(Pass):
    """Inline calls of private functions and drop the functions.

    JAX traces `jnp.where`, `jax.nn.silu`, `jnp.tril`, ... as private functions; a matcher should not see their walls.
    Recursive functions, and calls or functions that carry attributes of their own, stay.
    """

    def run(self, module: Module, ctx: PassContext) -> None:
        ctx.count("calls inlined", inline_all_calls(module.operation))
