"""What a program makes of the exponentials of rows: numbers of rows, and values of the extent of the logits."""

from __future__ import annotations

import functools
import math
from collections.abc import Collection, Iterable
from dataclasses import dataclass

from jaxlib.mlir import ir

from zenith_mlir.ir.facts import element_type, has_static_shape, is_float, shape, users

# A softmax in the middle of a model leads to all of it.
_MAX_OPS = 300


@dataclass(frozen=True)
class Region:
    """Float values that follow from the exponentials, in program order: `rows` are one number a row, `wide` have the
    shape of the logits.
    """

    rows: list[ir.Value]
    wide: list[ir.Value]


def downstream(exponential: ir.Operation, dim: int) -> Region:
    """The region of the nearest operations, as far as every value on the way has one of the two extents. Rows are along
    dimension `dim`.
    """
    extent = shape(exponential.results[0])
    count, columns = math.prod(extent), extent[dim]
    sizes = (count, count // columns)
    seen: dict[ir.Operation, None] = {exponential: None}
    frontier = [exponential]
    while frontier and len(seen) < _MAX_OPS:
        for user in users(frontier.pop(0).results[0]):
            if user not in seen and user.block == exponential.block and _extent(user) in sizes:
                seen[user] = None
                frontier.append(user)
    values = [op.results[0] for op in in_order(seen) if is_float(element_type(op.results[0]))]
    return Region(
        [value for value in values if math.prod(shape(value)) == sizes[1]],
        [value for value in values if shape(value) == extent],
    )


def _extent(op: ir.Operation) -> int:
    return math.prod(shape(op.results[0])) if len(op.results) == 1 and has_static_shape(op.results[0]) else 0


def in_order(ops: Iterable[ir.Operation]) -> list[ir.Operation]:
    """Operations of one block as they stand in it."""

    def earlier(a: ir.Operation, b: ir.Operation) -> int:
        return -1 if a.is_before_in_block(b) else int(a != b)

    return sorted(ops, key=functools.cmp_to_key(earlier))


def survivor(
    values: Iterable[ir.Value], ops: Collection[ir.Operation], replaced: Collection[ir.Value]
) -> ir.Operation | None:
    """What outside of `ops` still needs one of `values` once those in `replaced` come from elsewhere."""
    stack = [value for value in values if value not in replaced]
    seen = set(stack)
    while stack:
        for user in users(stack.pop()):
            if user not in ops and not _is_dead(user):
                return user
            new = [result for result in user.results if result not in seen and result not in replaced]
            seen.update(new)
            stack += new
    return None


def _is_dead(op: ir.Operation) -> bool:
    return bool(op.results) and not any(True for result in op.results for _ in result.uses) and not len(op.regions)
