"""Softmaxes that attention left behind: its probabilities are used elsewhere, too, and are computed beside it."""

from __future__ import annotations

from collections.abc import Iterable

from jaxlib.mlir import ir

from zenith_mlir.dialects.attention import NAME
from zenith_mlir.ir.composites import composite_attributes, composite_name
from zenith_mlir.ir.facts import defining_op

# Between queries and keys and their softmax there are scales, biases and masks.
_MAX_OPS = 48


def escaping_attentions(composites: Iterable[ir.Operation]) -> list[set[ir.Value]]:
    """Queries and keys of attentions whose probabilities escape."""
    found = []
    for composite in composites:
        if composite_name(composite) == NAME and ir.BoolAttr(composite_attributes(composite)["escapes"]).value:
            found.append(set(list(composite.operands)[:2]))
    return found


def is_left_behind(exponential: ir.Operation, attentions: list[set[ir.Value]]) -> bool:
    """Whether `exponential` follows from the queries and keys of one of `attentions`: where that is left to XLA, they
    are computed once.
    """
    seen: set[ir.Value] = set()
    frontier = [exponential] if attentions else []
    while frontier and len(seen) < _MAX_OPS:
        for value in frontier.pop(0).operands:
            op = defining_op(value)
            if value not in seen:
                seen.add(value)
                frontier += [] if op is None else [op]
    return any(pair <= seen for pair in attentions)
