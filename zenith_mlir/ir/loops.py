"""Facts about stablehlo.while as JAX writes scans, and dropping values that a loop carries for nobody."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import cached_property

from jaxlib.mlir import ir

from zenith_mlir.ir.facts import defined_by, defining_op, splat, users, walk


@dataclass(frozen=True)
class Loop:
    """A stablehlo.while: value i is operand i, argument i of both regions, operand i of the body's return, result i."""

    op: ir.Operation

    @cached_property
    def cond(self) -> ir.Block:
        block: ir.Block = self.op.regions[0].blocks[0]
        return block

    @cached_property
    def body(self) -> ir.Block:
        block: ir.Block = self.op.regions[1].blocks[0]
        return block

    @cached_property
    def terminator(self) -> ir.Operation:
        return list(self.body.operations)[-1].operation

    @property
    def operands(self) -> list[ir.Value]:
        return list(self.op.operands)

    @property
    def returned(self) -> list[ir.Value]:
        return list(self.terminator.operands)

    def is_invariant(self, i: int) -> bool:
        """Whether the body returns value i as it got it."""
        return bool(self.terminator.operands[i] == self.body.arguments[i])

    @cached_property
    def counter(self) -> tuple[int, int] | None:
        """(i, n) if value i counts 0, 1, ..., n - 1 and its reaching n ends the loop; None for other loops."""
        compare = defined_by(list(self.cond.operations)[-1].operation.operands[0], "stablehlo.compare")
        if compare is None or "LT" not in str(compare.attributes["comparison_direction"]):
            return None
        arguments = list(self.cond.arguments)
        if compare.operands[0] not in arguments:
            return None
        i, bound = arguments.index(compare.operands[0]), splat(compare.operands[1])
        step = defined_by(self.terminator.operands[i], "stablehlo.add")
        counts = step is not None and step.operands[0] == self.body.arguments[i] and splat(step.operands[1]) == 1
        return (i, int(bound)) if counts and bound is not None and splat(self.op.operands[i]) == 0 else None


def capture_invariants(loop: Loop, indices: Collection[int]) -> None:
    """Let the body use what the loop was given, for those of `indices` that it returns unchanged."""
    for i in indices:
        if loop.is_invariant(i):
            loop.body.arguments[i].replace_all_uses_except(loop.op.operands[i], loop.terminator)
            loop.cond.arguments[i].replace_all_uses_with(loop.op.operands[i])
            loop.op.results[i].replace_all_uses_with(loop.op.operands[i])


def merge_repeated(loop: Loop) -> int:
    """Let one of several values that the loop is given alike and returns unchanged stand for all; returns how many it
    stands for.
    """
    first: dict[ir.Value, int] = {}
    count = 0
    for i, init in enumerate(loop.operands):
        if loop.is_invariant(i) and first.setdefault(init, i) != i:
            for block in (loop.body, loop.cond):
                block.arguments[i].replace_all_uses_with(block.arguments[first[init]])
            loop.op.results[i].replace_all_uses_with(init)
            count += 1
    return count


def drop_unused(loop: Loop) -> Loop:
    """The loop without the values that nobody uses but the operations that make them for the next iteration."""
    kept = _used(loop)
    return loop if len(kept) == len(loop.operands) else _with(loop, kept)


def _used(loop: Loop) -> list[int]:
    """Indices of values that a result, the condition or another used value depends on."""
    arguments = {argument: i for i, argument in enumerate(loop.body.arguments)}
    used = {i for i, result in enumerate(loop.op.results) if users(result)}
    used |= {i for i, argument in enumerate(loop.cond.arguments) if users(argument)}
    effects = [op for op in _ops_before_return(loop.body) if _has_effect(op)]
    frontier = [loop.terminator.operands[i] for i in used]
    frontier += [operand for op in effects for operand in _operands(op)]
    seen: set[ir.Value] = set()
    while frontier:
        value = frontier.pop()
        if value in seen:
            continue
        seen.add(value)
        if value in arguments and arguments[value] not in used:
            used.add(arguments[value])
            frontier.append(loop.terminator.operands[arguments[value]])
        op = defining_op(value)
        if op is not None:
            frontier += _operands(op)
    return sorted(used)


_EFFECTS = frozenset(
    ["stablehlo.custom_call", "stablehlo.outfeed", "stablehlo.infeed", "stablehlo.send", "stablehlo.recv", "func.call"]
)


def _has_effect(op: ir.Operation) -> bool:
    """Whether `op` stays although nobody uses its results: it does something else, or an operation in it does."""
    return not op.results or op.name in _EFFECTS or any(inner.name in _EFFECTS for inner in walk(op))


def _ops_before_return(block: ir.Block) -> list[ir.Operation]:
    return [op.operation for op in block.operations][:-1]


def _operands(op: ir.Operation) -> list[ir.Value]:
    """Of `op` and of all operations in its regions."""
    return [value for each in (op, *walk(op)) for value in each.operands]


def widened(loop: Loop, values: Sequence[ir.Value]) -> Loop:
    """The same loop that carries `values` behind its own, unchanged from one iteration to the next."""
    old = loop.op
    new = _like(old, [*old.operands, *values])
    for region, block in zip(new.regions, (loop.cond, loop.body), strict=True):
        target = _move_to(region, block, [value.type for value in new.operands])
        if block == loop.body:
            *_, terminator = [op.operation for op in target.operations]
            extra = list(target.arguments)[len(old.operands) :]
            with ir.InsertionPoint(terminator), terminator.location:
                ir.Operation.create("stablehlo.return", operands=[*terminator.operands, *extra])
            terminator.erase()
    for before, after in zip(old.results, new.results, strict=False):
        before.replace_all_uses_with(after)
    old.erase()
    return Loop(new)


def _like(old: ir.Operation, operands: Sequence[ir.Value]) -> ir.Operation:
    """A loop before `old` with its attributes, these operands and empty regions."""
    with ir.InsertionPoint(old), old.location:
        return ir.Operation.create(
            old.name,
            results=[value.type for value in operands],
            operands=list(operands),
            attributes={named.name: named.attr for named in _attributes(old)},
            regions=2,
        )


def _move_to(region: ir.Region, block: ir.Block, types: Sequence[ir.Type]) -> ir.Block:
    """Bring the operations of `block` to a new block of `region` whose first arguments stand for those of `block`."""
    target: ir.Block = region.blocks.append(*types, arg_locs=[block.owner.operation.location] * len(types))
    for before, after in zip(block.arguments, target.arguments, strict=False):
        before.replace_all_uses_with(after)
    for op in [op.operation for op in block.operations]:
        op.detach_from_parent()
        ir.InsertionPoint(target).insert(op)
    return target


def _with(loop: Loop, kept: Sequence[int]) -> Loop:
    """The same loop with these of its values only."""
    old = loop.op
    new = _like(old, [old.operands[i] for i in kept])
    for region, block in zip(new.regions, (loop.cond, loop.body), strict=True):
        _move(block, region, kept, is_body=block == loop.body)
    for position, i in enumerate(kept):
        old.results[i].replace_all_uses_with(new.results[position])
    old.erase()
    return Loop(new)


def _attributes(op: ir.Operation) -> list[ir.NamedAttribute]:
    return [op.attributes[i] for i in range(len(op.attributes))]


def _move(block: ir.Block, region: ir.Region, kept: Sequence[int], is_body: bool) -> None:
    """Bring the operations of `block` to a new block of `region` that takes these of its arguments only."""
    arguments = list(block.arguments)
    target = region.blocks.append(
        *(arguments[i].type for i in kept), arg_locs=[block.owner.operation.location] * len(kept)
    )
    for position, i in enumerate(kept):
        arguments[i].replace_all_uses_with(target.arguments[position])
    *ops, terminator = [op.operation for op in block.operations]
    if is_body:
        returned = [terminator.operands[i] for i in kept]
        with ir.InsertionPoint(terminator), terminator.location:
            replacement = ir.Operation.create("stablehlo.return", operands=returned)
        terminator.erase()
        _erase_unused(ops)
        ops = _ops_before_return(block)
        terminator = replacement
    for op in [*ops, terminator]:
        op.detach_from_parent()
        ir.InsertionPoint(target).insert(op)


def _erase_unused(ops: Sequence[ir.Operation]) -> None:
    for op in reversed(ops):
        if not _has_effect(op) and not any(users(result) for result in op.results):
            op.erase()
