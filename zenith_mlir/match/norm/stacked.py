"""The residuals of a norm in a scan over layers: what its backward loop reads and could compute from x."""

from __future__ import annotations

import math

from jaxlib.mlir import ir

from zenith_mlir.ir.facts import shape
from zenith_mlir.ir.loops import Loop
from zenith_mlir.ir.stacks import NotStacked, computable, is_plain, loads, recompute, restack, stored
from zenith_mlir.match.norm.forward import Parts
from zenith_mlir.match.norm.site import between
from zenith_mlir.match.norm.statistics import Statistics


def recompute_stacked(loop: Loop, found: Statistics, below: Parts) -> int:
    """Compute what `loop` stacks of a norm's inside again where later loops read it; x is stacked in the place of a
    value of its type where it is not already. What the norm computes in the end stays stacked: others need it. Copies
    of weights in stacks go too, so that the gradient reads one weight.

    Returns: how many reads were replaced.
    Raises: NotStacked if x cannot be stacked; NoMatch if what the loop stacks depends on more than x.
    """
    results = {norm.result for norm in below.norms}
    inside = {value for value in below.spread.views if value != found.x and value not in results}
    rows = [row for row in stored(loop) if row.source in inside and any(True for _ in loads(loop, row.carry))]
    if not rows:
        return 0
    if all(row.source != found.x for row in stored(loop)):
        like_x = next((row for row in rows if row.source.type == found.x.type), None)
        if like_x is None or not restack(loop, like_x, found.x, between([like_x.source], [found.x])):
            raise NotStacked(loop.op)
        rows.remove(like_x)
    weights = [row for row in stored(loop) if row not in rows and _size(row.source) == below.spread.reader.count]
    return 1 + recompute(
        loop, [*rows, *(row for row in computable(loop, [*rows, *weights], _is_cheap) if row in weights)], _is_cheap
    )


def _size(value: ir.Value) -> int:
    return math.prod(shape(value))


def _is_cheap(op: ir.Operation) -> bool:
    return is_plain(op) and op.name != "stablehlo.dot_general"
