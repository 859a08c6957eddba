"""The operations of a block by number, and what passes between them: a view stands for what it shows."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxlib.mlir import ir
from numpy.typing import NDArray

from zenith_mlir.ir.loops import Loop
from zenith_mlir.remat.kinds import FREE, VIEWS, bytes_of, outer_operands
from zenith_mlir.remat.rooms import in_room_of_results

__all__ = ["Flow"]


class Flow:
    """Operation i of a block uses those of `operands[i]` and is used by `users[i]`, views left out on the way.

    `bytes[i]` is what its results take together as temporary memory: 0 for views, constants, what the block returns and
    what lies in the room of a result until that is made of it. `returned` are the operations whose results the block
    returns; `number` says which operation has a result.
    """

    def __init__(self, block: ir.Block) -> None:
        *self.ops, self.terminator = [op.operation for op in block.operations]
        # By result: an operation's own hash changes with its operands.
        self.number: dict[ir.Value, int] = {result: i for i, op in enumerate(self.ops) for result in op.results}
        self._source: dict[ir.Value, int | None] = dict.fromkeys(block.arguments)
        self.is_view = [op.name in VIEWS for op in self.ops]
        self.operands: list[list[int]] = []
        self.users: list[list[int]] = [[] for _ in self.ops]
        for i, op in enumerate(self.ops):
            sources = self.sources(list(outer_operands(op)))
            self.operands.append(sources)
            if self.is_view[i]:
                self._source.update((r, self.source(v)) for r, v in zip(op.results, op.operands, strict=True))
            else:
                self._source.update(dict.fromkeys(op.results, i))
                for j in sources:
                    self.users[j].append(i)
        self.returned = frozenset(self.sources(self.terminator.operands))
        returned = {*self.terminator.operands, *in_room_of_results(block)}
        self.bytes: NDArray[np.int64] = np.array([_bytes(op, returned) for op in self.ops], np.int64)

    def source(self, value: ir.Value) -> int | None:
        """The operation that computes what `value` shows; None if that comes from outside of the block."""
        return self._source.get(value)

    def sources(self, values: Sequence[ir.Value]) -> list[int]:
        """The operations that compute what `values` show, each once."""
        found = (self.source(value) for value in values)
        return list(dict.fromkeys(i for i in found if i is not None))

    def last_uses(self) -> NDArray[np.int64]:
        """For each operation the last one that uses it; itself if none does, their count if it is returned."""
        end = len(self.ops)
        last = [end if i in self.returned else max(users, default=i) for i, users in enumerate(self.users)]
        return np.array(last, np.int64)


def _bytes(op: ir.Operation, returned: set[ir.Value]) -> int:
    if op.name in FREE | VIEWS:
        return 0
    # What an iteration of a loop leaves as it was lies where the operand does.
    loop = Loop(op) if op.name == "stablehlo.while" else None
    return sum(
        bytes_of(result.type)
        for i, result in enumerate(op.results)
        if result not in returned and (loop is None or not loop.is_invariant(i))
    )
