"""Probes: the values inside of a program, by marks that outlive passes, as further results of its `main`.

What a counted loop computes is one value with a row an iteration. What stands in other regions (branches, loops that
end by a condition, the combining functions of reductions) belongs to the operation that holds the region.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from jaxlib.mlir import ir

from zenith_mlir.ir.facts import (
    defining_op,
    element_type,
    enclosing,
    has_static_shape,
    is_float,
    shape,
    splat_attribute,
    walk,
)
from zenith_mlir.ir.loops import Loop
from zenith_mlir.ir.marks import mark, mark_of
from zenith_mlir.ir.signature import main_function, update_signature
from zenith_mlir.ir.stacks import add_stacks

__all__ = ["Probe", "Values", "add_outputs", "find", "mark_values", "rewire", "sources", "unseen"]

# These move numbers, at most into another type: what they lose, they lose on behalf of those that read them.
MOVES = frozenset(
    f"stablehlo.{name}"
    for name in (
        "bitcast_convert", "broadcast", "broadcast_in_dim", "concatenate", "constant", "convert", "copy",
        "dynamic_broadcast_in_dim", "dynamic_slice", "dynamic_update_slice", "gather", "get_tuple_element", "iota",
        "optimization_barrier", "pad", "reduce_precision", "reshape", "reverse", "slice", "transpose", "tuple",
    )
) | {"chlo.constant", "chlo.constant_like"}  # fmt: skip


@dataclass(frozen=True)
class Probe:
    """Result `result` of the operation `op` marked `number`, a row an iteration of the counted loops around it.

    `name` is what the operation is called: that of a composite or of what a custom call calls, else `op`.
    """

    number: int
    result: int
    op: str
    name: str
    shape: tuple[int, ...]
    location: ir.Location = field(compare=False)

    @property
    def count(self) -> int:
        """The number of elements."""
        return math.prod(self.shape)


Values = Mapping[Probe, ir.Value]


def mark_values(module: ir.Module) -> list[Probe]:
    """Mark what computes floats in `main` and in the bodies of its counted loops; the values, in program order."""
    found = []
    with module.context:
        for number, op in enumerate(_visible(module)):
            if op.name in MOVES or _is_counted_loop(op):
                continue
            results = [(i, r) for i, r in enumerate(op.results) if _is_probed(r)]
            found += [Probe(number, i, op.name, _name(op), _rows_and_shape(r), op.location) for i, r in results]
            if results:
                mark(op, number)
    return found


def _name(op: ir.Operation) -> str:
    attribute = {"stablehlo.composite": "name", "stablehlo.custom_call": "call_target_name"}.get(op.name)
    return op.name if attribute is None else str(ir.StringAttr(op.attributes[attribute]).value)


def find(module: ir.Module, probes: Collection[Probe]) -> dict[Probe, ir.Value]:
    """Where each of `probes` is in `module`, which passes may have rewritten; those that are no more are left out.

    It is a result of the last operation with the mark and the shape, of the same name if there is one (a pass may have
    put converts of that shape around it, or another operation in its place).
    """
    marked: dict[int, list[ir.Operation]] = {}
    for op in _visible(module):
        if (number := mark_of(op.location)) is not None:
            marked.setdefault(number, []).append(op)
    found = {}
    for probe in probes:
        fitting = [op for op in marked.get(probe.number, ()) if _fits(op, probe)]
        same = [op for op in fitting if op.name == probe.op]
        if candidates := same or [op for op in fitting if op.name not in MOVES]:
            found[probe] = candidates[-1].results[probe.result]
    return found


def unseen(module: ir.Module) -> int:
    """How many operations that compute floats stand in branches and in loops that are not counted."""
    opaque = [op for op in _visible(module) if op.name in _BRANCHES and not _is_counted_loop(op)]
    inside = [inner for op in opaque for inner in walk(op) if inner.name not in MOVES | _BRANCHES and _in_branch(inner)]
    return sum(any(_is_probed(result) for result in op.results) for op in inside)


def _in_branch(op: ir.Operation) -> bool:
    return op.parent is not None and op.parent.operation.name in _BRANCHES


_BRANCHES = frozenset(("stablehlo.while", "stablehlo.case", "stablehlo.if"))


def _fits(op: ir.Operation, probe: Probe) -> bool:
    return probe.result < len(op.results) and _is_probed(op.results[probe.result]) and (
        _rows_and_shape(op.results[probe.result]) == probe.shape
    )  # fmt: skip


def _visible(module: ir.Module) -> Iterator[ir.Operation]:
    """The operations of `main` and, behind each counted loop, of its body."""
    yield from _operations(main_function(module).regions[0].blocks[0])


def _operations(block: ir.Block) -> Iterator[ir.Operation]:
    for view in block.operations:
        yield view.operation
        if _is_counted_loop(view.operation):
            yield from _operations(Loop(view.operation).body)


def _is_counted_loop(op: ir.Operation) -> bool:
    return op.name == "stablehlo.while" and Loop(op).counter is not None


def _is_probed(value: ir.Value) -> bool:
    return has_static_shape(value) and is_float(element_type(value)) and 0 not in shape(value)


def _rows_and_shape(value: ir.Value) -> tuple[int, ...]:
    return (*(loop.counter[1] for loop in _loops_around(value) if loop.counter), *shape(value))


def _loops_around(value: ir.Value) -> list[Loop]:
    """The loops in whose bodies `value` is computed, the outermost first."""
    found: list[Loop] = []
    op = defining_op(value)
    while op is not None and (op := enclosing(op, "stablehlo.while")) is not None:
        found.insert(0, Loop(op))
    return found


def sources(values: Sequence[ir.Value], stops: Mapping[ir.Value, Probe]) -> list[Probe]:
    """Those of `stops` that what computes `values` reads, directly or through what is no stop."""
    found: dict[Probe, None] = {}
    seen: set[ir.Value] = set()
    stack = [value for each in values if (op := defining_op(each)) is not None for value in _read_by(op)]
    while stack:
        value = stack.pop()
        if value in stops:
            found[stops[value]] = None
        elif value not in seen:
            seen.add(value)
            stack += _before(value)
    return list(found)


def _before(value: ir.Value) -> list[ir.Value]:
    """What `value` is computed from; of what a loop carries, what it was given and what an iteration returns."""
    owner = value.owner
    if isinstance(owner, ir.Block):
        held_by = owner.owner.operation
        return _carried(Loop(held_by), list(owner.arguments).index(value)) if _is_while(held_by) else []  # type: ignore[arg-type]  # an argument, as the stub does not know
    op = owner.operation
    return _carried(Loop(op), list(op.results).index(value)) if _is_while(op) else _read_by(op)  # type: ignore[arg-type]  # a result


def _is_while(op: ir.Operation) -> bool:
    return bool(op.name == "stablehlo.while")


def _carried(loop: Loop, i: int) -> list[ir.Value]:
    return [loop.operands[i], loop.returned[i]]


def _read_by(op: ir.Operation) -> list[ir.Value]:
    return [operand for each in (op, *walk(op)) for operand in each.operands]


def rewire(
    module: ir.Module, values: Values, change: Callable[[ir.Value, ir.Value], ir.Value]
) -> dict[Probe, ir.Value]:
    """Give `main` an argument for each of `values`, as high as its loops are long, and let whoever reads the value read
    `change(value, argument's row)` instead.

    Returns: `values`, which further outputs may still be.
    """
    main = main_function(module)
    entry = main.regions[0].blocks[0]
    types = [ir.RankedTensorType.get(list(probe.shape), element_type(value)) for probe, value in values.items()]
    for value, type_ in zip(values.values(), types, strict=True):
        op = defining_op(value)
        assert op is not None
        given = entry.add_argument(type_, op.location)
        before = {(use.owner.operation, use.operand_number) for use in value.uses}
        with ir.InsertionPoint.after(op), op.location:
            replacement = change(value, _row(given, _loops_around(value), value.type))
        for user, number in before:
            user.operands[number] = replacement
    update_signature(main)
    return dict(values)


def _row(given: ir.Value, loops: Sequence[Loop], type_: ir.Type) -> ir.Value:
    """The part of `given` that belongs to the present iteration of `loops`."""
    if not loops:
        return given
    inner = ir.RankedTensorType(type_)
    sizes = [1] * len(loops) + list(inner.shape)
    counters = [loop.body.arguments[loop.counter[0]] for loop in loops if loop.counter]
    zero = _zero(counters[0].type)
    starts = [*(_as(counter, zero.type) for counter in counters), *[zero] * len(inner.shape)]
    attributes: dict[str, ir.Attribute] = {"slice_sizes": ir.DenseI64ArrayAttr.get(sizes)}
    row = _create("stablehlo.dynamic_slice", ir.RankedTensorType.get(sizes, inner.element_type), given, *starts,
                  attributes=attributes)  # fmt: skip
    return _create("stablehlo.reshape", type_, row)


def _zero(type_: ir.Type) -> ir.Value:
    return _create("stablehlo.constant", type_, attributes={"value": splat_attribute(type_, 0)})


def _as(value: ir.Value, type_: ir.Type) -> ir.Value:
    return value if value.type == type_ else _create("stablehlo.convert", type_, value)


def _create(
    name: str, type_: ir.Type, *operands: ir.Value, attributes: dict[str, ir.Attribute] | None = None
) -> ir.Value:
    op = ir.Operation.create(name, results=[type_], operands=list(operands), attributes=attributes)
    result: ir.Value = op.results[0]
    return result


def add_outputs(module: ir.Module, values: Values) -> None:
    """Let `main` return `values` behind its own results, in their order."""
    main = main_function(module)
    outside = _stacked(values)
    terminator = list(main.regions[0].blocks[0].operations)[-1].operation
    with ir.InsertionPoint(terminator), terminator.location:
        ir.Operation.create(terminator.name, operands=[*terminator.operands, *(outside[probe] for probe in values)])
    terminator.erase()
    update_signature(main)


def _stacked(values: Values) -> dict[Probe, ir.Value]:
    """`values` as `main` has them; what is in loops becomes their stacks, from the innermost loop outwards."""
    current = dict(values)
    while (depth := max((len(_loops_around(value)) for value in current.values()), default=0)) > 0:
        deepest: dict[ir.Operation, list[Probe]] = {}
        for probe, value in current.items():
            if len(loops := _loops_around(value)) == depth:
                deepest.setdefault(loops[-1].op, []).append(probe)
        for op, probes in deepest.items():
            own = len(op.results)
            wide = add_stacks(Loop(op), [current[probe] for probe in probes])
            current.update(zip(probes, list(wide.op.results)[own:], strict=True))
    return current
