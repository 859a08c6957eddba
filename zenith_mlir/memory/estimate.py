"""The timeline of a StableHLO module that nobody compiled: an estimate, from the order of the program.

What XLA will do is guessed by a few rules. Views take nothing. What can be fused is computed where it is used and takes
nothing either, unless something reads it from memory (a product, a loop, a call), or it is used more than once and is
dear or reads more than it is. The rest is stored from where it is computed to its last use; arguments and results of
the program are their caller's. A loop keeps its state in one place; its body's own values are alive while it runs.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal

from jaxlib.mlir import ir

from zenith_mlir.errors import ZenithError
from zenith_mlir.ir.facts import users
from zenith_mlir.ir.inline import inline_all_calls
from zenith_mlir.ir.location import source_frame
from zenith_mlir.ir.loops import Loop
from zenith_mlir.ir.signature import argument_attributes, main_function, numpy_dtype
from zenith_mlir.memory.memory_report import MemoryReport
from zenith_mlir.memory.timeline import Moment, Timeline, Value
from zenith_mlir.module import Module
from zenith_mlir.remat.kinds import FREE, FUSED, is_costly

__all__ = ["estimate", "estimated_report", "tensor_bytes"]


def estimate(module: Module) -> Timeline:
    """The temporaries of `main` in program order.

    Raises:
        ZenithError: if there is no `main`, or a shape in it is known only when called.
    """
    flat = module.clone()
    with flat.context:
        inline_all_calls(flat.operation)
        walk = _Walk()
        walk.block(main_function(flat.ir).regions[0].blocks[0])
    return walk.timeline()


def estimated_report(module: Module) -> MemoryReport:
    """What `main` takes, as `zenith_mlir.memory.report` tells it of a module.

    Raises:
        ZenithError: as `estimate`.
    """
    timeline = estimate(module)
    main = main_function(module.ir)
    function: Any = ir.TypeAttr(main.attributes["function_type"]).value
    return MemoryReport(
        arguments=sum(map(tensor_bytes, function.inputs)),
        outputs=sum(map(tensor_bytes, function.results)),
        temporaries=timeline.peak,
        aliased=sum(tensor_bytes(type_) for type_ in _donated(main, function.inputs)),
        host=timeline.host_peak,
        exact=False,
        timeline=timeline,
    )


def tensor_bytes(type_: ir.Type) -> int:
    """What a tensor of this type takes, densely stored; 0 for tokens.

    Raises:
        ZenithError: for a dynamic shape or an element type without a NumPy dtype.
    """
    if not isinstance(type_, ir.RankedTensorType):
        return 0
    ranked = ir.RankedTensorType(type_)
    if not ranked.has_static_shape:
        raise ZenithError(f"{type_} has a shape known only when called; trace the function with concrete shapes")
    return math.prod(ranked.shape) * numpy_dtype(ranked.element_type).itemsize


def _names(text: str) -> frozenset[str]:
    return frozenset(text.split())


_VIEWS = _names("after_all bitcast_convert create_token get_tuple_element optimization_barrier reshape transpose tuple")
# Their operands are read from memory.
_READERS = _names("""
    all_gather all_reduce all_to_all call case cholesky collective_permute composite convolution custom_call
    dot dot_general fft if reduce_scatter reduce_window return scatter select_and_scatter sort triangular_solve while
""")
_MARKS = _names("LayoutConstraint SPMDFullToShardShape SPMDShardToFullShape Sharding")


@dataclass(eq=False)
class _Cell:
    """A piece of memory with one value in it. `place` is another cell whose memory it takes over."""

    op: ir.Operation
    type: ir.Type
    size: int
    born: int
    dies: int
    memory: Literal["device", "host"] = "device"
    output: bool = False
    place: _Cell | None = None

    @property
    def home(self) -> _Cell:
        return self if self.place is None else self.place.home


class _Walk:
    def __init__(self) -> None:
        self.ops: list[ir.Operation] = []
        self.cells: list[_Cell] = []
        # The cells that a value is read from: its own, or those of what it is computed from where it is used.
        self.sources: dict[ir.Value, tuple[_Cell, ...]] = {}

    def timeline(self) -> Timeline:
        self._share_places()
        numbers = {cell: i for i, cell in enumerate(self.cells)}
        values = [self._value(cell, numbers) for cell in self.cells if not cell.home.output]
        return Timeline([_moment(op) for op in self.ops], values)

    def block(self, block: ir.Block) -> None:
        for view in block.operations:
            self._operation(view.operation)

    def _operation(self, op: ir.Operation) -> None:
        name = _short(op)
        if name == "optimization_barrier":
            for operand, result in zip(op.operands, op.results, strict=True):
                self.sources[result] = self._cells([operand])
        elif name == "while":
            self._loop(Loop(op))
        elif name in ("case", "if"):
            self._branches(op)
        elif name == "return":
            self._return(op)
        elif name == "dynamic_update_slice":
            self._update(op)
        elif name in _VIEWS or _is_mark(op) or (op.name in FREE | FUSED and not _is_stored(op)):
            cells = self._cells(op.operands)
            for result in op.results:
                self.sources[result] = cells
        else:
            self._store(op, "host" if _placement(op) == "pinned_host" else "device")

    def _cells(self, values: Iterable[ir.Value]) -> tuple[_Cell, ...]:
        return tuple(dict.fromkeys(cell for value in values for cell in self.sources.get(value, ())))

    def _run(self, op: ir.Operation) -> int:
        """The moment at which `op` runs, and reads its operands."""
        now = len(self.ops)
        self.ops.append(op)
        for cell in self._cells(op.operands):
            cell.dies = now
        return now

    def _cell(self, op: ir.Operation, result: ir.Value, now: int) -> _Cell:
        cell = _Cell(op, result.type, tensor_bytes(result.type), now, now)
        self.cells.append(cell)
        self.sources[result] = (cell,)
        return cell

    def _store(self, op: ir.Operation, memory: Literal["device", "host"]) -> None:
        now = self._run(op)
        for result in op.results:
            self._cell(op, result, now).memory = memory

    def _update(self, op: ir.Operation) -> None:
        """In place where nobody else looks at the old value."""
        old = self._cells(op.operands[:1])
        now = self._run(op)
        if len(old) == 1 and old[0].size == tensor_bytes(op.results[0].type) and len(users(op.operands[0])) == 1:
            self.sources[op.results[0]] = old
        else:
            self._cell(op, op.results[0], now)

    def _return(self, op: ir.Operation) -> None:
        """What `main` returns is its caller's memory."""
        if op.name == "func.return":
            for value in op.operands:
                cells = self._cells([value])
                if len(cells) == 1 and cells[0].size == tensor_bytes(value.type):
                    cells[0].output = True
        for cell in self._cells(op.operands):
            cell.dies = max(cell.dies, len(self.ops) - 1)

    def _loop(self, loop: Loop) -> None:
        start = self._run(loop.op)
        states = []
        for i, (operand, result) in enumerate(zip(loop.operands, loop.op.results, strict=True)):
            if loop.is_invariant(i):
                self.sources[result] = self.sources[loop.body.arguments[i]] = self._cells([operand])
                continue
            state = self._cell(loop.op, result, start)
            initial = self._cells([operand])
            if len(initial) == 1 and initial[0].size == state.size and len(users(operand)) == 1:
                state.place = initial[0]
            self.sources[loop.body.arguments[i]] = (state,)
            states.append((i, state))
        self.block(loop.body)
        end = len(self.ops) - 1
        for i, state in states:
            for new in self._cells([loop.returned[i]]):
                if new.size == state.size and new.born >= state.dies and new.place is None and new is not state:
                    new.place = state
                    state.op = new.op
            state.dies = end
        self._outlive(start, end)

    def _branches(self, op: ir.Operation) -> None:
        start = self._run(op)
        for result in op.results:
            self._cell(op, result, start)
        for region in op.regions:
            self.block(region.blocks[0])
        end = len(self.ops) - 1
        for cell in self._cells(op.results):
            cell.dies = end
        self._outlive(start, end)

    def _outlive(self, start: int, end: int) -> None:
        """What a region reads from outside is there until it ends: a loop reads it again."""
        for cell in self.cells:
            if cell.born < start <= cell.dies:
                cell.dies = max(cell.dies, end)

    def _share_places(self) -> None:
        """An elementwise result takes the place of an operand as large as itself that nobody reads again."""
        ending: dict[tuple[int, int], list[_Cell]] = {}
        for cell in self.cells:
            if cell.place is None and cell.memory == "device" and cell.op.name in FUSED:
                old = next(iter(ending.get((cell.born, cell.size), ())), None)
                if old is not None and old.born < cell.born and not old.home.output and not cell.output:
                    ending[cell.born, cell.size].remove(old)
                    cell.place = old
            if cell.memory == "device":
                ending.setdefault((cell.dies, cell.size), []).append(cell)

    def _value(self, cell: _Cell, numbers: dict[_Cell, int]) -> Value:
        moment = _moment(cell.op)
        place = (0, numbers[cell.home])
        return Value(moment.name, _written(cell.type), cell.size, cell.born, cell.dies, place, moment, cell.memory)


def _short(op: ir.Operation) -> str:
    return op.name.rpartition(".")[2]


def _is_stored(op: ir.Operation) -> bool:
    """Whether the result of an operation that could be fused is written to memory all the same."""
    if op.name in FREE:
        return False
    readers = _readers(op.results[0])
    return any(_short(user) in _READERS for user in readers) or (len(readers) > 1 and is_costly(op))


def _readers(value: ir.Value) -> list[ir.Operation]:
    """Who uses `value`, directly or through views."""
    found = []
    stack = [value]
    while stack:
        for user in users(stack.pop()):
            if _short(user) in _VIEWS:
                stack += list(user.results)
            else:
                found.append(user)
    return found


def _is_mark(op: ir.Operation) -> bool:
    """Calls that only say something about a value."""
    if op.name != "stablehlo.custom_call":
        return op.name == "sdy.sharding_constraint"
    return ir.StringAttr(op.attributes["call_target_name"]).value in _MARKS


_PLACEMENT = "_xla_buffer_placement"


def _placement(op: ir.Operation) -> str:
    """The memory that `annotate_device_placement` moves a value to; empty for other operations."""
    if "mhlo.frontend_attributes" not in op.attributes:
        return ""
    attributes = ir.DictAttr(op.attributes["mhlo.frontend_attributes"])
    return ir.StringAttr(attributes[_PLACEMENT]).value if _PLACEMENT in attributes else ""


def _moment(op: ir.Operation) -> Moment:
    frame = source_frame(op.location)
    name = op.location.name_str if isinstance(op.location, ir.NameLoc) else ""
    return Moment(_short(op), name or _short(op), frame.file, frame.line)


def _written(type_: ir.Type) -> str:
    """`f32[8,128]`, as JAX and XLA write it."""
    if not isinstance(type_, ir.RankedTensorType):
        return str(type_)
    ranked = ir.RankedTensorType(type_)
    return f"{ranked.element_type}[{','.join(map(str, ranked.shape))}]"


def _donated(main: ir.Operation, types: Any) -> list[ir.Type]:
    """The types of the arguments whose memory becomes a result's."""
    attributes = argument_attributes(main)
    return [type_ for type_, each in zip(types, attributes, strict=False) if "tf.aliasing_output" in each]
