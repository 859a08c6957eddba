"""Residuals of a scan: rows of a stack that one loop fills and a later one reads."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from jaxlib.mlir import ir

from zenith_mlir.ir.facts import defined_by, defining_op, element_type, is_float, producer, shape, users
from zenith_mlir.ir.loops import Loop
from zenith_mlir.ir.stacks import Load, Row, computable, is_only_loaded, loads, loop_around, recompute, stored
from zenith_mlir.remat.kinds import bytes_of
from zenith_mlir.remat.offload.placement import DEVICE, HOST, is_placement, placed, tied
from zenith_mlir.remat.offload.residuals import CHEAP

__all__ = ["Stack", "recompute_cheap", "send_rows", "stacks"]


@dataclass(frozen=True)
class Stack:
    """`loop` fills it by `row`, and only `loads` read it, in the bodies of later loops."""

    loop: Loop
    row: Row
    loads: tuple[Load, ...]

    @property
    def value(self) -> ir.Value:
        value: ir.Value = self.loop.op.results[self.row.carry]
        return value

    @property
    def bytes(self) -> int:
        return bytes_of(self.value.type)

    @property
    def is_away(self) -> bool:
        """Whether it is on the host."""
        source = defining_op(self.row.source)
        return source is not None and is_placement(source)

    @property
    def op(self) -> ir.Operation:
        """What computes a row, or the loop if its rows are handed on from one iteration to the next."""
        return defining_op(self.row.source) or self.loop.op


def stacks(block: ir.Block) -> list[Stack]:
    """The stacks that loops of `block` fill for later ones."""
    return [stack for loop in _loops(block) for stack in _filled(loop)]


def _filled(loop: Loop) -> Iterator[Stack]:
    for row in stored(loop):
        reads = tuple(loads(loop, row.carry)) if is_only_loaded(loop, row) else _captured(loop, row.carry)
        if reads:
            yield Stack(loop, row, reads)


def _captured(loop: Loop, carry: int) -> tuple[Load, ...]:
    """Where bodies of later loops read rows of stack `carry` from around them; none if anything else uses the stack."""
    stack = loop.op.results[carry]
    row = (1, *shape(stack)[1:])
    captured: list[Load] = []
    for op in users(stack):
        reader = loop_around(op) if op.name == "stablehlo.dynamic_slice" else None
        if reader is None or reader.op.block != loop.op.block or shape(op.results[0]) != row:
            return ()
        captured.append(Load(reader, op, op.operands[1], carry))
    return tuple(captured)


def recompute_cheap(block: ir.Block) -> int:
    """Let backward loops compute again what cheap operations make of other stacks; returns how many reads that were."""
    count = 0
    for i in range(len(_loops(block))):
        # Loops that lose values are other operations in the same places.
        loop = _loops(block)[i]
        rows: list[Row] = []
        for row in stored(loop):
            source = defining_op(row.source)
            cheap = source is not None and source.name in CHEAP and any(loads(loop, row.carry))
            if cheap and len(computable(loop, [*rows, row], _is_cheap)) > len(rows):
                rows.append(row)
        count += recompute(loop, rows, _is_cheap) if rows else 0
    return count


def _loops(block: ir.Block) -> list[Loop]:
    return [Loop(op.operation) for op in block.operations if op.operation.name == "stablehlo.while"]


def _is_cheap(op: ir.Operation) -> bool:
    return op.name in CHEAP or op.name == "stablehlo.constant"


def send_rows(stack: Stack) -> None:
    """Put the rows of `stack`, and with them the stack, on the host, and each back where it is read."""
    update = defined_by(stack.loop.returned[stack.row.carry], "stablehlo.dynamic_update_slice")
    assert update is not None, "a row is stored by an update"
    with ir.InsertionPoint(update), stack.op.location:
        host = placed(stack.row.source, HOST)
        update.operands[1] = _as_row(host, stack.row)
    for load in _merged(stack.loads):
        _bring_back(load)


def _merged(loads: Sequence[Load]) -> list[Load]:
    """One load, the first, for all of the same row in the same block."""
    first: dict[tuple[ir.Operation, ir.Value], Load] = {}
    for load in loads:
        earlier = first.setdefault((load.loop.op, load.index), load)
        if load.op.is_before_in_block(earlier.op):
            first[load.loop.op, load.index] = load
    for load in loads:
        kept = first[load.loop.op, load.index]
        if kept is not load:
            load.op.results[0].replace_all_uses_with(kept.op.results[0])
            load.op.erase()
    return list(first.values())


def _as_row(value: ir.Value, row: Row) -> ir.Value:
    if row.value == row.source:
        return value
    op = defining_op(row.value)
    assert op is not None, "a row with another source is made of it"
    clone = op.clone()
    clone.operands[0] = value
    result: ir.Value = clone.results[0]
    return result


def _bring_back(load: Load) -> None:
    (row,) = load.op.results
    carried = _cotangent(load.loop, load.op)
    with ir.InsertionPoint.after(load.op), load.op.location:
        after = row if carried is None else tied([row], [carried])[0]
        back = placed(after, DEVICE)
    row.replace_all_uses_except(back, producer(back if carried is None else after))


def _cotangent(loop: Loop, op: ir.Operation) -> ir.Value | None:
    """What the backward loop hands on from one iteration to the next, as the last barrier before `op` has it: a float
    that it neither stacks nor sums up.
    """
    for i, argument in enumerate(loop.body.arguments):
        step = defining_op(loop.returned[i])
        kept = loop.is_invariant(i) or not _is_float(argument)
        sums = step is not None and step.name in _SUMS and argument in list(step.operands)
        if not kept and not sums and users(argument):
            return _past_barriers(argument, op)
    return None


_SUMS = ("stablehlo.add", "stablehlo.dynamic_update_slice")


def _past_barriers(value: ir.Value, op: ir.Operation) -> ir.Value:
    for user in users(value):
        if user.name == "stablehlo.optimization_barrier" and user.is_before_in_block(op):
            return _past_barriers(user.results[list(user.operands).index(value)], op)
    return value


def _is_float(value: ir.Value) -> bool:
    return isinstance(value.type, ir.RankedTensorType) and is_float(element_type(value))
