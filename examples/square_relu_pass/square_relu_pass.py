"""square-relu: relu(x)² without the intermediate, as a pass in a package of its own."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp

from zenith_mlir import Module, Pass, PassContext, register
from zenith_mlir.match.pattern import Match, Pattern, Replacement, apply_patterns, replace_with, traced


class SquareRelu(Pattern):
    pattern = traced(lambda x: jax.nn.relu(x) ** 2, x="*b")
    numerics = "exact"

    def rewrite(self, match: Match) -> Replacement:
        return replace_with(lambda x: jnp.where(x <= 0, 0, x * x))


@register("square-relu")
@dataclass(frozen=True)
class SquareReluPass(Pass):
    """Compute relu(x)² as a select between 0 and x². Expects the canonical form (run `prepare` before)."""

    def run(self, module: Module, ctx: PassContext) -> None:
        apply_patterns(module, ctx, [SquareRelu()])
