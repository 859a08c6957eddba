"""What follows from values whose dimensions are known: operation by operation, with the view of each result."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Generic, TypeVar

from jaxlib.mlir import ir

from zenith_mlir.ir.facts import SHAPE_OPS, has_static_shape, int_list, shape, users
from zenith_mlir.match.algebra.reader import Reader
from zenith_mlir.match.axes import View, result_view

R = TypeVar("R", bound=Reader)


class Spread(Generic[R]):
    """Views of values, taken along by the operations that use them.

    `whole` is the view of everything that has the shape `extent`: rows are broadcast to that.
    """

    def __init__(self, reader: R, views: Mapping[ir.Value, View], extent: Sequence[int], whole: View) -> None:
        self.reader, self.views = reader, dict(views)
        self._extent, self._whole = tuple(extent), whole

    def take(self, op: ir.Operation) -> View | None:
        """The view of the result of `op`, known from now on; None if no operand tells."""
        if op.name not in self.reader.handlers or not has_static_shape(op.results[0]):
            return None
        view = self._view(op)
        if view is not None:
            self.views[op.results[0]] = view
        return view

    def _view(self, op: ir.Operation) -> View | None:
        operands = [value for value in op.operands if value in self.views]
        if not operands:
            return None
        known, result = self.views[operands[0]], shape(op.results[0])
        if op.name == "stablehlo.reduce":
            dims = int_list(op, "dimensions")
            return tuple(dim for i, dim in enumerate(known) if i not in dims) if op.operands[0] == operands[0] else None
        if op.name in SHAPE_OPS and op.name != "stablehlo.convert":
            moved = result_view(self.reader.space, op, known)
            return self._whole if moved is None and result == self._extent else moved
        return next((self.views[value] for value in operands if shape(value) == result), None)

    def follow(
        self,
        start: Iterable[ir.Value],
        position: Callable[[ir.Operation], int],
        wanted: Callable[[ir.Value, View], bool],
        limit: int,
    ) -> Iterator[ir.Value]:
        """Results that follow from `start` in its block, in the order of the program, as long as they are `wanted`;
        at most `limit` operations are looked at.
        """
        queue: list[tuple[int, int, ir.Operation]] = []
        seen: set[ir.Operation] = set()

        def push(value: ir.Value) -> None:
            block = value.owner if isinstance(value.owner, ir.Block) else value.owner.operation.block
            for user in users(value):
                if user not in seen and user.name in self.reader.handlers and user.block == block:
                    seen.add(user)
                    heapq.heappush(queue, (position(user), len(seen), user))

        for value in start:
            push(value)
        while queue and limit:
            limit -= 1
            *_, op = heapq.heappop(queue)
            view = self.take(op)
            if view is not None and wanted(op.results[0], view):
                yield op.results[0]
                push(op.results[0])
