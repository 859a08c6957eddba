"""What cast-precision tells: products and composites that are cast, products that are not, counts of the rest."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from jaxlib.mlir import ir

from zenith_mlir.context import PassContext
from zenith_mlir.ir.symbols import functions
from zenith_mlir.precision.cast.classes import Kind, name_of
from zenith_mlir.precision.cast.colouring import Colouring
from zenith_mlir.precision.cast.graph import Graph, Node, is_product, is_wide
from zenith_mlir.precision.cast.policy import CastPolicy


def say_casts(colouring: Colouring, compute: str, ctx: PassContext) -> None:
    """One remark for each product and each composite that gets another type, or does not get one and why.

    To be called before the colouring is applied.
    """
    say_refusals(colouring, ctx)
    for node in colouring.graph.nodes:
        kind = "products" if is_product(node) else "composites"
        if (is_product(node) or node.op.name == "stablehlo.composite") and _changes(colouring, node):
            ctx.passed(node.op, name_of(node.op), compute=compute)
            ctx.count(f"{kind} cast")


def say_refusals(colouring: Colouring, ctx: PassContext) -> None:
    """One remark for each product that stays float32."""
    for node, refusal in colouring.refused.items():
        name = name_of(node.op)
        ctx.missed(node.op, name, f"{name.partition('.')[2]} stays float32: {refusal.reason}", refusal.suggest)
        ctx.count("products left in float32")


def say_counts(colouring: Colouring, ctx: PassContext) -> None:
    """How many operations of each class are computed in 16 bits, and what loops carry in float32 and why."""
    nodes = [node for node in colouring.graph.nodes if node.results and not node.is_join]
    if not nodes:
        return
    anchor = nodes[0].op
    for kind in (Kind.ALLOW, Kind.INFER, Kind.CLEAR, Kind.DENY):
        own = [node for node in nodes if node.kind == kind]
        narrow = sum(node in colouring.low or node in colouring.products for node in own)
        if own:
            reason = f"{kind.value}: {narrow} of {len(own)} operations in 16 bits"
            ctx.analysis(anchor, "", reason, kind=kind.value, narrow=narrow, all=len(own))
    reasons = Counter((node.op, why) for node, why in colouring.pinned.items() if node.is_join)
    for (loop, why), count in reasons.items():
        ctx.analysis(loop, "", f"{count} of the values that the loop carries stay float32: {why}", count=count)


def say_rules(module: ir.Operation, policy: CastPolicy, graphs: Sequence[Graph], ctx: PassContext) -> None:
    """Patterns that no operation matches, and those that ask for what there is not."""
    anchor = next(iter(functions(module).values()), module)
    matched = {rule for graph in graphs for rule in graph.matched}
    for rule in policy.rules:
        if rule not in matched:
            ctx.missed(anchor, "", f"no operation matches the pattern {rule}")
        unheard = [op for graph in graphs for op, other in graph.unheard if other == rule]
        if unheard:
            reason = f"{name_of(unheard[0])} cannot be of the class that {rule} asks for"
            ctx.missed(unheard[0], name_of(unheard[0]), reason, count=len(unheard))


def _changes(colouring: Colouring, node: Node) -> bool:
    asked = any(is_wide(use.value) and colouring.wants_narrow(node, use) for use in node.uses)
    return asked or any(is_wide(value) and colouring.is_narrow(value) for value in node.values)
