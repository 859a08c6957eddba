"""Logits that a checkpoint policy saves: they reach the gradient through a barrier, beside the queries and keys whose
product they are.
"""

from __future__ import annotations

from zenith_mlir.ir.barriers import compute_past
from zenith_mlir.ir.facts import SHAPE_OPS, defining_op
from zenith_mlir.match.attention.logits import way_up
from zenith_mlir.match.attention.softmax import Softmax

# What may lie between the saved value and the product of queries and keys.
_REPEATED = frozenset({*SHAPE_OPS, "stablehlo.dot_general", "stablehlo.reduce_precision", "stablehlo.multiply"})


def recompute_saved(softmax: Softmax) -> bool:
    """Compute the product of queries and keys again behind the barrier that its result came through, if it did and they
    come through it too.
    """
    value = way_up(softmax.logits)
    barrier = defining_op(value)
    if barrier is None or barrier.name != "stablehlo.optimization_barrier":
        return False
    index = next(i for i, result in enumerate(barrier.results) if result == value)
    return compute_past(barrier, index, lambda op: op.name in _REPEATED)
