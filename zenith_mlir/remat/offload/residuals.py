"""What a training step makes in its forward and uses in its backward, and from which of these values the others follow.

XLA does not put every such value in memory: a tanh of h, the cast of a bfloat16, the copy of a mean along rows are
computed again where they are used. To move h to the host frees no memory while anything on the device is computed from
h itself. So a residual is the value with all that cheap operations make of it alone: what the backward uses of these is
to be made of the copy that comes back.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator
from dataclasses import dataclass

from jaxlib.mlir import ir

from zenith_mlir.ir.facts import defining_op, has_static_shape
from zenith_mlir.remat.kinds import EXPENSIVE, FREE, FUSED, bytes_of
from zenith_mlir.remat.offload.placement import is_on_host, is_placement

__all__ = ["Order", "Residual", "Use", "residuals"]

CHEAP = FUSED | {"stablehlo.reshape"}
# A value of at most this share of another stays on the device, uncounted, where both are used: the mean of a row.
SMALL = 1 / 8


class Order:
    """Positions of the operations of `block`; what is in a region of one stands where that one does."""

    def __init__(self, block: ir.Block) -> None:
        self.block = block
        self.ops = [op.operation for op in block.operations]
        # By results: an operation's hash is that of its operands, too, and changes with them.
        self._positions = {op.results[0]: i for i, op in enumerate(self.ops) if op.results}
        self._without_results = [(op, i) for i, op in enumerate(self.ops) if not op.results]

    def of(self, op: ir.Operation) -> int:
        while (position := self._position(op)) is None:
            assert op.parent is not None, f"{op.name} is not in the block"
            op = op.parent.operation
        return position

    def _position(self, op: ir.Operation) -> int | None:
        if op.results:
            return self._positions.get(op.results[0])
        return next((i for other, i in self._without_results if other == op), None)

    def made(self, value: ir.Value) -> int:
        """Where `value` is computed; -1 for an argument of the block."""
        op = defining_op(value)
        return -1 if op is None else self.of(op)


@dataclass(frozen=True)
class Use:
    """Operand `index` of `op`, which stands at `position` of the block or in a region there, is `value`."""

    position: int
    op: ir.Operation
    index: int
    value: ir.Value


@dataclass(frozen=True, eq=False)
class Residual:
    """`value` is computed at position `made`, and the forward uses it up to position `last`.

    `uses`, in program order, are the backward's, of `value` or of what the operations `again` make of it.
    """

    value: ir.Value
    made: int
    last: int
    uses: list[Use]
    again: list[ir.Operation]

    @property
    def bytes(self) -> int:
        return bytes_of(self.value.type)

    @property
    def needed(self) -> int:
        """The position of the backward's first use."""
        return self.uses[0].position

    @property
    def op(self) -> ir.Operation:
        """What computes it."""
        op = defining_op(self.value)
        assert op is not None, "a residual is no argument"
        return op

    def named_by(self) -> Iterator[ir.Operation]:
        """The operations whose names are names of this residual: of each value of it that the backward uses."""
        ops = (defining_op(use.value) for use in self.uses)
        yield from dict.fromkeys([self.op, *(op for op in ops if op is not None)])


def residuals(order: Order, forward: int, smallest: int = 1) -> list[Residual]:
    """The residuals of a block whose first `forward` operations are the forward, in program order.

    Left out are values that follow from arguments and constants alone, those that the program returns, and those that
    are on the host already. What takes fewer than `smallest` bytes may be what a residual is combined with.
    """
    stays = _Staying(order, smallest)
    found: list[Residual] = []
    seen: set[ir.Value] = set()
    for op in order.ops[:forward]:
        for value in op.results:
            if value in seen or value in stays.free or not has_static_shape(value):
                continue
            if is_on_host(value) or all(order.of(use.owner.operation) < forward for use in value.uses):
                continue
            residual = _residual(order, forward, _narrowest(value, stays, seen), stays, seen)
            if residual is not None:
                found.append(residual)
    return found


class _Staying:
    """What may be used in the backward without keeping anything large on the device: small values, and `free` ones,
    which cheap operations make of arguments, constants and small values.
    """

    def __init__(self, order: Order, smallest: int) -> None:
        self._smallest = smallest
        self.free: set[ir.Value] = set(order.block.arguments)
        for op in order.ops:
            if op.name in FREE or (op.name in CHEAP and not self.large(op, bytes_of(op.results[0].type))):
                self.free.update(op.results)

    def large(self, op: ir.Operation, size: int) -> list[ir.Value]:
        """The operands of `op` that are neither free nor small beside a value of `size` bytes."""
        return [v for v in op.operands if v not in self.free and not self._is_small(bytes_of(v.type), size)]

    def _is_small(self, size: int, beside: int) -> bool:
        return size < self._smallest and size <= SMALL * beside


def _narrowest(value: ir.Value, stays: _Staying, seen: set[ir.Value]) -> ir.Value:
    """What to send in the place of `value`: of the values from each of which it follows the one of fewest bytes, say
    what a float32 was cast from. Of several as narrow the first, from which other residuals may follow, too; but not
    for an exponential, say, that nobody has asked for again.
    """
    best, expensive = value, False
    while (op := defining_op(value)) is not None and op.name in CHEAP:
        large = set(stays.large(op, bytes_of(value.type)))
        if len(large) != 1 or not large.isdisjoint(seen):
            break
        (value,) = large
        expensive |= op.name in EXPENSIVE
        size, least = bytes_of(value.type), bytes_of(best.type)
        if size < least or (size == least and not expensive):
            best = value
    return best


def _residual(order: Order, forward: int, value: ir.Value, stays: _Staying, seen: set[ir.Value]) -> Residual | None:
    again = _made_of(order, value, stays)
    made = [value, *(result for op in again for result in op.results)]
    seen.update(made)
    skipped = set(again)
    last = order.made(value)
    uses: list[Use] = []
    for each in made:
        for use in each.uses:
            op = use.owner.operation
            position = order.of(op)
            if each == value and (is_placement(op) or position == len(order.ops) - 1):
                return None
            returned = position == len(order.ops) - 1 and order.made(each) < forward
            if position < forward:
                last = max(last, position) if op not in skipped else last
            elif op not in skipped and not returned:
                uses.append(Use(position, op, use.operand_number, each))
    uses.sort(key=lambda use: (use.position, use.index))
    return Residual(value, order.made(value), last, uses, again) if uses else None


def _made_of(order: Order, value: ir.Value, stays: _Staying) -> list[ir.Operation]:
    """The cheap operations that compute something from `value`, what stays on the device and one another, in order."""
    size = bytes_of(value.type)
    members = {value}
    found: dict[int, ir.Operation] = {}
    heap = _users(order, value)
    heapq.heapify(heap)
    while heap:
        position = heapq.heappop(heap)
        op = order.ops[position]
        if position in found or op.name not in CHEAP:
            continue
        if members.issuperset(stays.large(op, size)):
            found[position] = op
            for result in op.results:
                members.add(result)
                for user in _users(order, result):
                    heapq.heappush(heap, user)
    return list(found.values())


def _users(order: Order, value: ir.Value) -> list[int]:
    return [order.of(use.owner.operation) for use in value.uses]
