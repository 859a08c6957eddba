"""Products that stay as they are, and why."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from jaxlib.mlir import ir

from zenith_mlir.ir.facts import defining_op
from zenith_mlir.precision.cast.classes import Kind, Port
from zenith_mlir.precision.cast.flow import to_angles, wide
from zenith_mlir.precision.cast.graph import Graph, Node, is_float, is_product, is_wide
from zenith_mlir.precision.cast.policy import CastPolicy


@dataclass(frozen=True)
class Reason:
    """Why, and what the user can do."""

    reason: str
    suggest: str = ""


def refusals(graph: Graph, policy: CastPolicy, dtype: str) -> dict[Node, Reason]:
    """The products of float32 that are not cast. A pattern of the user that allows one overrules all but types."""
    angles, beyond = to_angles(graph), wide(graph, dtype)
    found: dict[Node, Reason] = {}
    for node in graph.nodes:
        if is_product(node) and any(is_wide(use.value) for use in node.uses if use.port in (Port.LOW, Port.FULL)):
            reason = _refuse(node, policy, angles, beyond, dtype)
            if reason is not None:
                found[node] = reason
    return found


def _refuse(
    node: Node, policy: CastPolicy, angles: Collection[ir.Value], beyond: Collection[ir.Value], dtype: str
) -> Reason | None:
    if node.kind != Kind.ALLOW:
        return Reason(f"the policy denies it: {node.rule}")
    if node.rule is not None:
        return None
    attributes = node.op.attributes
    if "algorithm" in attributes:
        return Reason("the program names the algorithm to multiply by", "allow it by a pattern to cast it")
    if not policy.highest and "precision_config" in attributes and "HIGHEST" in str(attributes["precision_config"]):
        return Reason("the program asks for the precision HIGHEST", "allow it by a pattern, or with policy=aggressive")
    if any(value in angles for value in node.values):
        return Reason("its result is an angle: rounded positions would turn by whole radians")
    if any(use.value in beyond for use in node.uses if use.port == Port.LOW):
        return Reason(f"it multiplies numbers that {dtype} does not hold")
    if all(_is_of_integers(use.value) for use in node.uses):
        return Reason("it computes with integers and constants alone")
    return None


def _is_of_integers(value: ir.Value) -> bool:
    """Whether no float that the program is given is behind `value`."""
    stack, seen = [value], set()
    while stack:
        value = stack.pop()
        if value in seen or not is_float(value):
            continue
        seen.add(value)
        op = defining_op(value)
        if op is None or op.regions or op.name in ("func.call", "stablehlo.composite", "stablehlo.custom_call"):
            return False
        stack += op.operands
    return True
