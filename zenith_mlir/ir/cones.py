"""What a value is computed from."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence

from jaxlib.mlir import ir

from zenith_mlir.ir.facts import defining_op

Enter = Callable[[ir.Value, ir.Operation | None], bool]


def cone(values: Sequence[ir.Value], stops: Collection[ir.Value], enter: Enter) -> list[ir.Operation]:
    """The operations that compute `values` from `stops`, producers first.

    `enter` is asked about each value on the way that is no stop, with the operation that defines it (None for a block
    argument, which is never entered): whether that operation belongs to the cone, or the way ends there. It raises
    where the way must not lead.
    """
    done: dict[ir.Operation, None] = {}
    stack = [(value, False) for value in reversed(values)]
    while stack:
        value, expanded = stack.pop()
        op = defining_op(value)
        if value in stops or (op is not None and op in done):
            continue
        if expanded and op is not None:
            done[op] = None
        elif enter(value, op) and op is not None:
            stack.append((value, True))
            stack.extend((operand, False) for operand in op.operands)
    return list(done)
