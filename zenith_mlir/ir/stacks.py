"""Values that one loop stacks, a row an iteration, for a later loop to read back: the residuals of a scan.

JAX saves what the backward of a scan needs in `[trip count, ...]` buffers. Here such a value is computed again where it
is read, from other values that are stacked too, so that its buffer goes.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass

from jaxlib.mlir import ir

from zenith_mlir.ir.cones import cone
from zenith_mlir.ir.facts import (
    defined_by,
    defining_op,
    element_type,
    enclosing,
    shape,
    splat,
    splat_attribute,
    users,
)
from zenith_mlir.ir.loops import Loop, capture_invariants, drop_unused, widened
from zenith_mlir.ir.outline import clone_op


class NotStacked(Exception):
    """A value cannot be computed again from what is stacked; `op` is where the way up ends."""

    def __init__(self, op: ir.Operation) -> None:
        super().__init__(f"{op.name} is not stacked")
        self.op = op


@dataclass(frozen=True)
class Load:
    """`op` reads the whole row `index` of result `carry` of an earlier loop, directly in the body of `loop`."""

    loop: Loop
    op: ir.Operation
    index: ir.Value
    carry: int


@dataclass(frozen=True)
class Row:
    """What an iteration of a loop puts in row `index` of stack `carry`: `value`, of leading dimension 1, made of
    `source` by that dimension alone (or `value` itself).
    """

    carry: int
    value: ir.Value
    source: ir.Value
    index: ir.Value


def stored(loop: Loop) -> list[Row]:
    """What `loop` puts in stacks as high as its trip count, one row an iteration, from either end."""
    found: list[Row] = []
    if loop.counter is None:
        return found
    _, trip_count = loop.counter
    for i, value in enumerate(loop.returned):
        update = defined_by(value, "stablehlo.dynamic_update_slice")
        if update is None or update.operands[0] != loop.body.arguments[i] or len(users(update.operands[0])) > 1:
            continue
        stack, row, start, *rest = list(update.operands)
        whole = all(splat(other) == 0 for other in rest) and shape(row) == (1, *shape(stack)[1:])
        if _counts_rows(loop, start) and shape(stack)[0] == trip_count and whole:
            found.append(Row(i, row, _without_leading_one(row), start))
    return found


def _counts_rows(loop: Loop, value: ir.Value) -> bool:
    """Whether `value` is c or, as jax.lax.scan(reverse=True) has it, n - c - 1, with c the counter of n iterations."""
    assert loop.counter is not None
    i, trip_count = loop.counter
    counter = loop.body.arguments[i]
    offset = 0
    if (op := defined_by(value, "stablehlo.subtract")) is not None and (number := splat(op.operands[1])) is not None:
        value, offset = op.operands[0], int(number)
    if (op := defined_by(value, "stablehlo.subtract")) is not None and op.operands[1] == counter:
        start = splat(op.operands[0])
        return start is not None and start - offset == trip_count - 1
    return bool(value == counter) and offset == 0


def _without_leading_one(row: ir.Value) -> ir.Value:
    op = defining_op(row)
    if op is None or op.name not in ("stablehlo.reshape", "stablehlo.broadcast_in_dim"):
        return row
    source = op.operands[0]
    return source if shape(row) == (1, *shape(source)) else row


def loads(loop: Loop, carry: int) -> Iterator[Load]:
    """Where later loops, which may be given the stack or simply use it, read whole rows of result `carry`."""
    stack = loop.op.results[carry]
    row = (1, *shape(stack)[1:])
    for reader, read in _readers(loop, stack):
        for op in users(read):
            whole = op.name == "stablehlo.dynamic_slice" and shape(op.results[0]) == row
            if whole and op.block == reader.body:
                yield Load(reader, op, op.operands[1], carry)


def _readers(loop: Loop, stack: ir.Value) -> Iterator[tuple[Loop, ir.Value]]:
    """The loops behind `loop` in its block that read `stack`, and what it is called in their bodies."""
    inside: dict[ir.Operation, None] = {}
    for consumer in users(stack):
        if consumer.name == "stablehlo.while" and consumer.block == loop.op.block:
            reader = Loop(consumer)
            same = (i for i, operand in enumerate(reader.operands) if operand == stack and reader.is_invariant(i))
            yield from ((reader, reader.body.arguments[i]) for i in same)
        around = enclosing(consumer, "stablehlo.while")
        if around is not None and around.block == loop.op.block:
            inside[around] = None
    yield from ((Loop(op), stack) for op in inside)


def recompute(loop: Loop, rows: Collection[Row], repeatable: Callable[[ir.Operation], bool]) -> int:
    """Compute `rows`, which `loop` stacks, again where later loops read them; their stacks go.

    Only `repeatable` operations are repeated.

    Returns: how many reads were replaced.
    Raises: NotStacked, before anything is changed, if other stacked values do not suffice.
    """
    plan = [(row, load) for row in rows for load in loads(loop, row.carry)]
    kept = {row.index: _kept(loop, rows, row.index) for row, _ in plan}
    cones = {row.value: _cone(loop, row, kept[row.index], repeatable) for row, _ in plan}
    readers = {load.loop.op: load.loop for _, load in plan}
    repeated: dict[tuple[ir.Operation, ir.Value, ir.Value], _Iteration] = {}
    for row, load in _in_order(plan):
        key = (load.loop.op, load.index, row.index)
        iteration = repeated.setdefault(key, _Iteration(loop, load, row.index, kept[row.index]))
        load.op.results[0].replace_all_uses_with(iteration.value(row.value, cones[row.value]))
    for reader in readers.values():
        capture_invariants(reader, range(len(reader.operands)))
        drop_unused(reader)
    drop_unused(loop)
    return len(plan)


def restack(loop: Loop, row: Row, value: ir.Value, ops: Collection[ir.Operation]) -> bool:
    """Stack `value`, of the type of the source of `row`, in its place, and compute that from it by `ops` where the row
    is read. False, and nothing changed, if the stack is read in another way.
    """
    found = list(loads(loop, row.carry))
    update = defined_by(loop.returned[row.carry], "stablehlo.dynamic_update_slice")
    if update is None or not found or not _is_read_by(loop.op.results[row.carry], [load.op for load in found]):
        return False
    with ir.InsertionPoint(update), update.location:
        update.operands[1] = _reshaped(value, row.value.type)
    for load in found:
        (read,) = load.op.results
        with ir.InsertionPoint.after(load.op), load.op.location:
            given = ir.Operation.create("stablehlo.reshape", results=[value.type], operands=[read])
            mapping = {value: given.results[0]}
            for op in ops:
                clone_op(op, mapping)
            again = _reshaped(mapping[row.source], read.type)
        read.replace_all_uses_except(again, given)
    return True


def _is_read_by(stack: ir.Value, ops: Collection[ir.Operation]) -> bool:
    """Whether nothing but `ops`, in the bodies of later loops, reads `stack`."""
    for consumer in users(stack):
        if consumer in ops:
            continue
        if consumer.name != "stablehlo.while":
            return False
        reader = Loop(consumer)
        for i, operand in enumerate(reader.operands):
            if operand == stack:
                inside = [op for op in users(reader.body.arguments[i]) if op != reader.terminator]
                if not reader.is_invariant(i) or users(reader.cond.arguments[i]) or users(consumer.results[i]):
                    return False
                if any(op not in ops for op in inside):
                    return False
    return True


def is_only_loaded(loop: Loop, row: Row) -> bool:
    """Whether nobody but later loops reads the stack of `row`, and those row by row."""
    found = list(loads(loop, row.carry))
    return bool(found) and _is_read_by(loop.op.results[row.carry], [load.op for load in found])


def add_stacks(loop: Loop, values: Sequence[ir.Value]) -> Loop:
    """The same loop, which stacks `values` of its body as well, in the rows that its counter says."""
    if not values:
        return loop
    assert loop.counter is not None
    counter, trip_count = loop.counter
    own: dict[ir.Value, int] = {argument: i for i, argument in enumerate(loop.body.arguments)}
    with ir.InsertionPoint(loop.op), loop.op.location:
        empty = [_zeros([trip_count, *shape(value)], element_type(value)) for value in values]
    wide = widened(loop, empty)
    for i, value in enumerate(values, start=len(own)):
        source = wide.body.arguments[own[value]] if value in own else value
        wide.terminator.operands[i] = _with_row(wide, i, source, wide.body.arguments[counter])
    return Loop(wide.op)


def _zeros(sizes: Sequence[int], element: ir.Type) -> ir.Value:
    type_ = ir.RankedTensorType.get(list(sizes), element)
    attributes: dict[str, ir.Attribute] = {"value": splat_attribute(type_, 0)}
    result: ir.Value
    (result,) = ir.Operation.create("stablehlo.constant", results=[type_], attributes=attributes).results
    return result


def _with_row(loop: Loop, carry: int, value: ir.Value, index: ir.Value) -> ir.Value:
    """Stack `carry` as an iteration gets it with `value` in row `index`."""
    stack = loop.body.arguments[carry]
    with ir.InsertionPoint(loop.terminator), loop.terminator.location:
        row = _reshaped(value, ir.RankedTensorType.get([1, *shape(value)], element_type(value)))
        zero = _zeros([], element_type(index))
        starts = [index, *[zero] * len(shape(value))]
        result: ir.Value
        (result,) = ir.Operation.create(
            "stablehlo.dynamic_update_slice", results=[stack.type], operands=[stack, row, *starts]
        ).results
    return result


def _reshaped(value: ir.Value, type_: ir.Type) -> ir.Value:
    (result,) = ir.Operation.create("stablehlo.reshape", results=[type_], operands=[value]).results
    return result


def computable(loop: Loop, rows: Collection[Row], repeatable: Callable[[ir.Operation], bool]) -> list[Row]:
    """Those of `rows` that can be computed from what `loop` stacks beside them all."""

    def can(row: Row) -> bool:
        try:
            _cone(loop, row, _kept(loop, rows, row.index), repeatable)
        except NotStacked:
            return False
        return True

    return [row for row in rows if can(row)]


def _kept(loop: Loop, rows: Collection[Row], index: ir.Value) -> dict[ir.Value, int]:
    """Of what is stacked at `index` beside `rows` the stacks."""
    return {row.source: row.carry for row in stored(loop) if row not in rows and row.index == index}


def _in_order(plan: list[tuple[Row, Load]]) -> list[tuple[Row, Load]]:
    """The first read in a body comes first: what is computed there serves those below."""
    ordered: list[tuple[Row, Load]] = []
    for entry in plan:
        op = entry[1].op
        later = (
            i for i, (_, load) in enumerate(ordered) if op.block == load.op.block and op.is_before_in_block(load.op)
        )
        ordered.insert(next(later, len(ordered)), entry)
    return ordered


def _cone(
    loop: Loop, row: Row, kept: Collection[ir.Value], repeatable: Callable[[ir.Operation], bool]
) -> list[ir.Operation]:
    """What computes a row in the body of `loop` from `kept` values, invariants and its index; producers first."""
    arguments: dict[ir.Value, int] = {argument: i for i, argument in enumerate(loop.body.arguments)}

    def enter(value: ir.Value, op: ir.Operation | None) -> bool:
        if op is None:
            i = arguments.get(value)
            if i is not None and not loop.is_invariant(i):
                raise NotStacked(loop.op)
            return False
        inside = bool(op.block == loop.body)
        if inside and (
            not op.name.startswith(("stablehlo.", "chlo.")) or op.name in _NOT_REPEATED or not repeatable(op)
        ):
            raise NotStacked(op)
        return inside

    return cone([row.value], {row.index, *kept}, enter)


# Random bits have to stay the same, and values of the body that regions use would have to be exchanged inside of them.
_NOT_REPEATED = frozenset(f"stablehlo.{name}" for name in ("while", "case", "if", "rng", "rng_bit_generator"))


def is_plain(op: ir.Operation) -> bool:
    """Whether `op` is an operation of StableHLO itself and calls nothing."""
    return op.name not in ("stablehlo.custom_call", "stablehlo.composite")


class _Iteration:
    """An iteration of `loop` in the body where `load` reads its row: what was read or computed again there."""

    def __init__(self, loop: Loop, load: Load, index: ir.Value, kept: dict[ir.Value, int]) -> None:
        self._loop, self._load, self._kept = loop, load, kept
        self._values: dict[ir.Value, ir.Value] = {index: load.index}
        for i, argument in enumerate(loop.body.arguments):
            if loop.is_invariant(i):
                self._values[argument] = loop.op.operands[i]

    def value(self, value: ir.Value, cone: list[ir.Operation]) -> ir.Value:
        """`value` in that iteration; the operations of `cone` are repeated where they were not yet."""
        with ir.InsertionPoint(self._load.op), self._load.op.location:
            for op in cone:
                if op.results[0] not in self._values:
                    self._repeat(op)
        return self._of(value)

    def _repeat(self, op: ir.Operation) -> None:
        operands = [self._of(operand) for operand in op.operands]
        clone = op.clone()
        for i, operand in enumerate(operands):
            clone.operands[i] = operand
        self._values.update(zip(op.results, clone.results, strict=True))

    def _of(self, value: ir.Value) -> ir.Value:
        if value not in self._values:
            self._values[value] = self._read(value) if value in self._kept else value
        return self._values[value]

    def _read(self, value: ir.Value) -> ir.Value:
        """The row of the stack of `value`."""
        stack = self._loop.op.results[self._kept[value]]
        sizes = [1, *shape(stack)[1:]]
        row_type = ir.RankedTensorType.get(sizes, ir.RankedTensorType(value.type).element_type)
        with ir.InsertionPoint(self._load.op), self._load.op.location:
            (row,) = ir.Operation.create(
                "stablehlo.dynamic_slice",
                results=[row_type],
                operands=[stack, self._load.index, *list(self._load.op.operands)[2:3] * (len(sizes) - 1)],
                attributes={"slice_sizes": ir.DenseI64ArrayAttr.get(sizes)},
            ).results
            if row.type == value.type:
                return row
            (result,) = ir.Operation.create("stablehlo.reshape", results=[value.type], operands=[row]).results
        return result


def loop_around(op: ir.Operation) -> Loop | None:
    """The loop whose body `op` stands in directly."""
    parent = enclosing(op, "stablehlo.while")
    loop = None if parent is None else Loop(parent)
    return loop if loop is not None and loop.body == op.block else None
