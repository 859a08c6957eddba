"""Calls by name of which the meaning is known: placements, which say where and not what, and approximate top k. Linear
algebra is gone by now, but for what is refused.
"""

from __future__ import annotations

from collections.abc import Sequence

from jaxlib.mlir import ir

from zenith_mlir.onnx.convert import Lowering, NotConvertible, Walk
from zenith_mlir.onnx.lower.sort import approx_top_k
from zenith_mlir.onnx.view import View

__all__ = ["CALLS", "CUSTOM_CALL"]


def _same(walk: Walk, op: ir.Operation) -> Sequence[View]:
    return [walk.view(value) for value in op.operands]


CALLS: dict[str, Lowering] = {
    "ApproxTopK": approx_top_k,
    "Sharding": _same,
    "annotate_device_placement": _same,
}


LINEAR_ALGEBRA_REASON = (
    "of linear algebra these are converted, in float32 and float64 and with matrices whose sizes are known: Cholesky, "
    "LU, QR, eigh, the singular value decomposition, triangular and tridiagonal solvers, and what is made of them"
)


def _custom_call(walk: Walk, op: ir.Operation) -> Sequence[View]:
    name = str(ir.StringAttr(op.attributes["call_target_name"]).value)
    if name.startswith("zenith_"):
        raise NotConvertible("lower-kernels made it of a zenith op; leave that pass out, as passes='default' does")
    if name.startswith("lapack_"):
        raise NotConvertible(LINEAR_ALGEBRA_REASON)
    if name not in CALLS:
        raise NotConvertible(next((reason for part, reason in _REASONS.items() if part in name), _UNKNOWN))
    return CALLS[name](walk, op)


# By a part of the name.
_REASONS = {
    "python": "it calls back into Python (jax.debug.print, jax.pure_callback), which a model cannot; leave it out",
}
_UNKNOWN = "nothing is known of what it calls; write the function in jax.numpy where that can be"


def _refused(walk: Walk, op: ir.Operation) -> Sequence[View]:
    raise NotConvertible(LINEAR_ALGEBRA_REASON)


CUSTOM_CALL: dict[str, Lowering] = {
    "stablehlo.custom_call": _custom_call,
    "sdy.sharding_constraint": _same,
    # `expand_linalg` leaves those that it does not know.
    "stablehlo.cholesky": _refused,
    "stablehlo.triangular_solve": _refused,
}
