"""The residuals of an attention in a scan over layers: what its backward loop reads and could compute itself."""

from __future__ import annotations

import math

from jaxlib.mlir import ir

from zenith_mlir.ir.facts import shape, users
from zenith_mlir.ir.loops import Loop
from zenith_mlir.ir.stacks import computable, is_plain, loads, recompute, stored
from zenith_mlir.match.attention.site import Site


def recompute_stacked(loop: Loop, site: Site) -> int:
    """Compute what `loop` stacks of the attention in its body again where later loops read it: what lies between the
    product of queries and keys and that with the values, and masks of its extent. No other product is repeated.

    Returns: how many reads were replaced.
    Raises: NotStacked if the loop does not keep what the probabilities are computed from.
    """
    scores = site.anatomy.scores.path.dot
    after = _between(scores, site.anatomy.values.dot)
    extent = math.prod(shape(site.anatomy.softmax.logits))
    read = [row for row in stored(loop) if any(True for _ in loads(loop, row.carry))]
    between = [row for row in read if row.value in after]
    if not between:
        return 0

    def repeatable(op: ir.Operation) -> bool:
        return is_plain(op) and (op.name != "stablehlo.dot_general" or op == scores)

    large = [row for row in read if row not in between and math.prod(shape(row.value)) == extent]
    masks = [row for row in computable(loop, [*between, *large], repeatable) if row in large]
    return recompute(loop, [*between, *masks], repeatable)


def _between(first: ir.Operation, last: ir.Operation) -> set[ir.Value]:
    """Results that follow from those of `first` in its block, but for what follows from `last` alone."""
    found: set[ir.Value] = set(first.results)
    frontier = list(found)
    while frontier:
        for user in users(frontier.pop()):
            if user != last and user.block == first.block:
                new = [result for result in user.results if result not in found]
                found.update(new)
                frontier += new
    return found
