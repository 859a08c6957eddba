"""Why what looks like a norm is none, in a user's words."""

from __future__ import annotations

from jaxlib.mlir import ir

from zenith_mlir.ir.facts import splat, users
from zenith_mlir.match.norm.forward import Parts
from zenith_mlir.match.norm.statistics import Statistics


def why_not(found: Statistics, below: Parts, root: ir.Operation) -> tuple[str, str] | None:
    """The reason and what to change; None if nothing comes close, or nothing is wrong."""
    if below.norms:
        return None
    if any(_adds_a_number(user) for user in users(root.results[0])):
        return "epsilon is added to the root of the variance, not to the variance", "write sqrt(variance + epsilon)"
    count = below.spread.reader.count
    if found.centred and count > 1 and abs(found.scale * (count - 1) / count - 1) < 1e-6:
        return f"the variance is divided by {count - 1}, not by {count}", "use the variance without Bessel's correction"
    return None


def _adds_a_number(op: ir.Operation) -> bool:
    if op.name == "stablehlo.broadcast_in_dim":
        return any(_adds_a_number(user) for user in users(op.results[0]))
    number = splat(op.operands[1]) if op.name == "stablehlo.add" else None
    return number is not None and 0 < abs(number) < 1
