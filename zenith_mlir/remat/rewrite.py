"""Putting a plan into the program: operations of the forward are repeated in the backward, just before they are needed.

What a repetition reads comes through an `optimization_barrier`, and so does what the backward reads until the next
repetition, with the cotangents that are waiting at that point (`cotangents.py`). The barrier keeps XLA from merging the
repetition, and what it fuses into the backward, with the original; the cotangents keep it from running early.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

from jaxlib.mlir import ir

from zenith_mlir.ir.facts import users, walk
from zenith_mlir.remat.cotangents import Cotangents
from zenith_mlir.remat.from_module import Program
from zenith_mlir.remat.kinds import outer_operands, repeatable
from zenith_mlir.remat.schedule import Plan

__all__ = ["apply"]


def apply(program: Program, plan: Plan) -> None:
    """Rewrite the operations of `program` to the schedule of `plan`, which moves nothing to the host."""
    flow, fused = program.flow, program.fused
    batches = _batches(program, plan)
    cotangents = Cotangents(program, plan)
    latest: dict[ir.Value, ir.Value] = {}
    for i in range(program.length, len(flow.ops)):
        cotangents.pass_by(i)
        if not fused.is_anchor[i]:
            continue
        with ir.InsertionPoint(flow.ops[i]), flow.ops[i].location:
            if i in batches:
                latest |= _recompute(program, *batches[i], latest, cotangents.waiting(i))
            if latest:
                _Reader(program, latest).redirect(flow.ops[i])
    with ir.InsertionPoint(flow.terminator), flow.terminator.location:
        _Reader(program, latest).redirect(flow.terminator)
    _erase_unused(flow.ops)


def _batches(program: Program, plan: Plan) -> dict[int, tuple[list[ir.Operation], list[ir.Operation]]]:
    """By operation of the backward what is repeated before it, and the operations from there on to the next such that
    read nothing of the backward: XLA might run them as early as it likes.
    """
    flow, fused = program.flow, program.fused
    again = dict(zip(program.steps, plan.recompute, strict=False))
    batches: dict[int, tuple[list[ir.Operation], list[ir.Operation]]] = {}
    readers: list[ir.Operation] = []
    for i in range(program.length, len(flow.ops)):
        if again.get(i):
            readers = []
            batches[i] = ([flow.ops[program.nodes[n]] for n in again[i]], readers)
        if i in again or (fused.is_anchor[i] and not fused.operands[i]):
            readers.append(flow.ops[i])
    return batches


def _recompute(
    program: Program,
    ops: Sequence[ir.Operation],
    readers: Sequence[ir.Operation],
    latest: Mapping[ir.Value, ir.Value],
    cotangents: Sequence[ir.Value],
) -> dict[ir.Value, ir.Value]:
    """Repeat `ops` at the insertion point, from the `latest` values of what they read and after `cotangents`; returns
    what stands for their results, for these, and for what else of the forward and of the arguments `readers` read.
    """
    again = {result for op in ops for result in op.results}
    kept = [value for value in _leaves(program, readers) if not program.is_backward(value)]
    leaves = [value for value in dict.fromkeys([*_leaves(program, ops), *kept]) if value not in again]
    before = _Reader(program, latest)
    read = [before.of(value) for value in (*leaves, *cotangents)]
    behind = dict(zip((*leaves, *cotangents), _barrier(read), strict=True))
    reader = _Reader(program, behind)
    for op in ops:
        reader.repeat(op)
    return {value: reader.of(value) for value in (*again, *cotangents, *leaves)}


def _barrier(values: Sequence[ir.Value]) -> list[ir.Value]:
    """`values` again, available when all of them are."""
    unique = list(dict.fromkeys(values))
    barrier = "stablehlo.optimization_barrier"
    op = ir.Operation.create(barrier, results=[value.type for value in unique], operands=unique)
    behind = dict(zip(unique, op.results, strict=True))
    return [behind[value] for value in values]


def _leaves(program: Program, ops: Iterable[ir.Operation]) -> list[ir.Value]:
    """What the loops of `ops` read from memory, arguments of the program included."""
    found: dict[ir.Value, None] = {}
    seen: set[ir.Value] = set()
    stack = [value for op in ops for value in outer_operands(op)]
    while stack:
        value = stack.pop()
        if value in seen:
            continue
        seen.add(value)
        inner = program.fused_at(value)
        if inner is not None:
            stack.extend(outer_operands(inner))
        elif not program.is_constant(value):
            found[value] = None
    return list(found)


class _Reader:
    """Reads values at the insertion point where some stand for others: what is fused into users and rests on these is
    repeated on top of them.
    """

    def __init__(self, program: Program, standing: Mapping[ir.Value, ir.Value]) -> None:
        self._program = program
        self._values = dict(standing)

    def of(self, value: ir.Value) -> ir.Value:
        """What stands for `value`."""
        for op in self._inside(value):
            operands = list(outer_operands(op))
            if any(self._values[operand] != operand for operand in operands):
                self.repeat(op)
            else:
                self._values.update((result, result) for result in op.results)
        return self._values.setdefault(value, value)

    def _inside(self, value: ir.Value) -> Iterator[ir.Operation]:
        """The fused operations that compute `value`, producers first; all they read is known when they come."""
        stack = [(value, False)]
        while stack:
            current, ready = stack.pop()
            if current in self._values:
                continue
            op = self._program.fused_at(current)
            if op is None:
                self._values[current] = current
            elif ready:
                yield op
            else:
                stack.append((current, True))
                stack.extend((operand, False) for operand in outer_operands(op))

    def repeat(self, op: ir.Operation) -> None:
        """Clone `op`, which then stands for itself."""
        for operand in outer_operands(op):
            self.of(operand)
        clone = op.clone()
        self._substitute(clone)
        self._values.update(zip(op.results, clone.results, strict=True))

    def redirect(self, op: ir.Operation) -> None:
        """Let `op` read what stands for its operands."""
        for operand in outer_operands(op):
            self.of(operand)
        self._substitute(op)

    def _substitute(self, op: ir.Operation) -> None:
        for each in (op, *walk(op)):
            for i, operand in enumerate(each.operands):
                standing = self._values.get(operand, operand)
                if standing != operand:
                    each.operands[i] = standing


def _erase_unused(ops: Iterable[ir.Operation]) -> None:
    for op in reversed(list(ops)):
        if repeatable(op) and not any(users(result) for result in op.results):
            op.erase()
