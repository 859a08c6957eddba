"""Where the forward of a training step ends and its backward begins.

JAX writes all operations of a forward, those that only the backward needs among them, before those of the backward.
So the partition is a position: behind the last operation on which the loss depends and that others still use.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from jaxlib.mlir import ir
from numpy.typing import NDArray

from zenith_mlir.ir.facts import is_float
from zenith_mlir.remat.flow import Flow
from zenith_mlir.remat.kinds import FREE

__all__ = ["forward_length"]


def forward_length(flow: Flow) -> int:
    """How many operations, the first ones of `flow`, are the forward; 0 if there is no backward.

    The loss is a scalar of floating point that the program returns. Where it returns several (a learning rate, a norm
    of gradients), it is the first at whose end about as many bytes wait for users as anywhere. Where it returns none,
    the backward starts with the first operation that JAX says is transposed.
    """
    ends = sorted({end for i in _scalars(flow) if (end := _end(flow, i))})
    if not ends:
        return next((i for i, op in enumerate(flow.ops) if _is_transposed(op)), 0)
    waiting = _waiting_bytes(flow)
    enough = max(waiting[end] for end in ends) / 2
    return next(end for end in ends if waiting[end] >= enough)


def _waiting_bytes(flow: Flow) -> NDArray[np.int64]:
    """Entry e: bytes of what the first e operations compute and later ones use."""
    count = len(flow.ops)
    last = flow.last_uses()
    bytes = np.where(last < count, flow.bytes, 0)  # results wait for nobody here
    changes = np.zeros(count + 2, np.int64)
    np.add.at(changes, np.arange(count) + 1, bytes)
    np.subtract.at(changes, last + 1, bytes)
    return np.cumsum(changes[:-1])


def _scalars(flow: Flow) -> Iterator[int]:
    """The operations that compute scalars of floating point which the program returns."""
    for value in flow.terminator.operands:
        type_, i = value.type, flow.source(value)
        if (
            i is not None
            and isinstance(type_, ir.RankedTensorType)
            and not type_.shape
            and is_float(type_.element_type)
        ):
            yield i


def _end(flow: Flow, loss: int) -> int:
    """The end of the forward of `loss`: behind the last operation that it depends on and others use; 0 without one."""
    inside = _ancestors(flow, loss)
    shared = (i for i in inside if i != loss and any(user not in inside for user in flow.users[i]))
    return max(shared, default=-1) + 1


def _is_transposed(op: ir.Operation) -> bool:
    """Whether JAX made `op` by transposing, as the path of names in its location has it."""
    return op.name not in FREE and "transpose(jvp(" in str(op.location)


def _ancestors(flow: Flow, i: int) -> set[int]:
    found, stack = {i}, [i]
    while stack:
        for j in flow.operands[stack.pop()]:
            if j not in found:
                found.add(j)
                stack.append(j)
    return found
