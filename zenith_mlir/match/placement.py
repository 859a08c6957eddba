"""Where in a block a composite may stand: after all that it takes, before all that uses its results."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from jaxlib.mlir import ir

from zenith_mlir.ir.facts import defining_op, users
from zenith_mlir.match.nomatch import NoMatch


def first_user(values: Sequence[ir.Value], block: ir.Block, but: Collection[ir.Operation] = ()) -> ir.Operation:
    """The operation of `block` that first uses one of `values`, or holds in a region what does; not one of `but`."""
    first: ir.Operation | None = None
    for value in values:
        for user in (op for op in users(value) if op not in but):
            here = _ancestor_in(block, user)
            if first is None or here.is_before_in_block(first):
                first = here
    assert first is not None, "values that nobody uses are not matched"
    return first


def _ancestor_in(block: ir.Block, op: ir.Operation) -> ir.Operation:
    while op.block != block:
        assert op.parent is not None, "an operation is used in its own block or in one below"
        op = op.parent.operation
    return op


def refuse_late(values: Sequence[ir.Value], before: ir.Operation) -> None:
    """Raises: NoMatch if one of `values` is not known yet where the operation `before` stands."""
    for value in values:
        op = defining_op(value)
        if op is not None and op.block == before.block and not op.is_before_in_block(before):
            raise NoMatch(op, "a result is used before all that the results depend on is known")
