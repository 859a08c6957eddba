"""The timeline of a compiled program: XLA's own schedule and XLA's own places in memory.

What a buffer assignment does not say is from when to when a value is needed. That is computed here as XLA's
HloLiveRange does: computations called by control flow are laid out in their callers' order, and a value lives from the
instruction that defines it to the last that reads it.
"""

from __future__ import annotations

from collections.abc import Iterator

from zenith_mlir.ir.hlo import Buffer, Computation, Index, Instruction, Program
from zenith_mlir.ir.hlo_origin import Origins
from zenith_mlir.memory.timeline import Moment, Timeline, Value

__all__ = ["timeline_of"]

# They name what is there already.
_FORWARDING = {"tuple", "get-tuple-element", "bitcast", "opt-barrier", "add-dependency", "domain"}
_FORWARDING |= {"copy-done", "async-update", "async-done"}
_NO_WORK = _FORWARDING | {"parameter", "constant", "while", "call", "conditional", "after-all", "partition-id"}
_CONTROL_FLOW = {"while", "call", "conditional", "async-start"}


def timeline_of(program: Program) -> Timeline:
    """The temporaries of `program` over its schedule."""
    return _Liveness(program).timeline()


class _Liveness:
    def __init__(self, program: Program):
        self.program = program
        self.origins = Origins(program)
        self.moments: list[Moment] = []
        # The moment at which each instruction runs, and the first and last of each computation.
        self.time: dict[int, int] = {}
        self.span: dict[int, tuple[int, int]] = {}
        # The instruction that calls a computation, and the operand that its first parameter is.
        self.caller: dict[int, tuple[Instruction, int]] = {}
        self.home: dict[int, Computation] = {}
        self.defined = {(buffer.instruction, buffer.at): buffer for buffer in program.buffers}
        self.dies: dict[int, int] = {}
        self._found: dict[tuple[int, Index], Buffer | None] = {}

    def timeline(self) -> Timeline:
        self._lay_out(self.program.entry)
        for key in self.span:
            for instruction in self.program.computations[key].instructions:
                self._read_operands(instruction)
            self._leave(self.program.computations[key])
        return Timeline(self.moments, list(self._values()))

    def _lay_out(self, computation: Computation) -> None:
        start = len(self.moments)
        for instruction in computation.instructions:
            self.home[instruction.id] = computation
            for called, operand in _called(instruction):
                self.caller[called] = (instruction, operand)
                self._lay_out(self.program.computations[called])
            self.time[instruction.id] = len(self.moments)
            if instruction.opcode not in _NO_WORK:
                self.moments.append(self._moment(instruction))
        self.span[computation.id] = (start, max(start, len(self.moments) - 1))

    def _moment(self, instruction: Instruction, index: Index = ()) -> Moment:
        op, frame = self.origins.of(instruction, index)
        return Moment(instruction.name, op, frame.file, frame.line)

    def _read_operands(self, instruction: Instruction) -> None:
        if instruction.opcode in _FORWARDING:
            return
        moment = self._last_read(instruction)
        for operand in instruction.operands:
            for index in self.program.instructions[operand].shape.indices():
                buffer = self._buffer(operand, index)
                if buffer is not None:
                    self._needed(buffer, moment)

    def _last_read(self, instruction: Instruction) -> int:
        """The moment up to which `instruction` itself needs its operands."""
        if instruction.opcode == "while":
            # From then on the state is the loop's own, in the same place; what it does not change, its body returns.
            return self.span[instruction.called[1]][0]
        return self.time[instruction.id] - (instruction.opcode in _NO_WORK)

    def _leave(self, computation: Computation) -> None:
        """What a computation returns lives to its end, and so does the state that a loop's condition looks at."""
        last = self.span[computation.id][1]
        kept = [computation.root]
        caller = self.caller.get(computation.id)
        if caller is not None and caller[0].opcode == "while" and computation.id == caller[0].called[1]:
            kept += [i.id for i in computation.instructions if i.opcode == "parameter"]
        for key in kept:
            for index in self.program.instructions[key].shape.indices():
                buffer = self._buffer(key, index)
                if buffer is not None:
                    self._needed(buffer, last)

    def _needed(self, buffer: Buffer, moment: int) -> None:
        self.dies[buffer.id] = max(self.dies.get(buffer.id, 0), moment)

    def _buffer(self, key: int, index: Index) -> Buffer | None:
        """The buffer of what instruction `key` has at `index`, through everything that only passes values on."""
        place = (key, index)
        if place not in self._found:
            self._found[place] = None  # a computation that calls itself has no buffers
            known = self.defined.get(place)
            origin = None if known is not None else self._origin(self.program.instructions[key], index)
            self._found[place] = self._buffer(*origin) if origin is not None else known
        return self._found[place]

    def _origin(self, instruction: Instruction, index: Index) -> tuple[int, Index] | None:
        """Where the value that an instruction passes on comes from."""
        operands = instruction.operands
        match instruction.opcode:
            case "get-tuple-element":
                return operands[0], (instruction.tuple_index, *index)
            case "tuple":
                return (operands[index[0]], index[1:]) if index else None
            case "bitcast" | "opt-barrier" | "add-dependency" | "domain" | "while":
                return operands[0], index
            case "copy-done":
                return operands[0], (0, *index)
            case "copy-start" if index == (1,):
                return operands[0], ()
            case "async-update":
                return operands[0], index
            case "async-done":
                return operands[0], (1, *index)
            case "call":
                return self.program.computations[instruction.called[0]].root, index
            case "async-start" if index[:1] == (0,) and len(index) > 1:
                return operands[index[1]], index[2:]
            case "async-start" if index[:1] == (1,):
                return self.program.computations[instruction.called[0]].root, index[1:]
            case "parameter":
                caller = self.caller.get(self.home[instruction.id].id) if instruction.id in self.home else None
                return None if caller is None else (caller[0].operands[caller[1] + instruction.parameter], index)
        return None

    def _values(self) -> Iterator[Value]:
        temporary = {a.id: a for a in self.program.allocations if a.temporary}
        for buffer in self.program.buffers:
            if buffer.allocation not in temporary or buffer.instruction not in self.time:
                continue
            instruction = self.program.instructions[buffer.instruction]
            born = min(self._born(instruction), len(self.moments) - 1)
            yield Value(
                instruction.name + "".join(f"[{i}]" for i in buffer.at),
                str(instruction.shape.at(buffer.at)),
                buffer.size,
                born,
                max(born, self.dies.get(buffer.id, born)),
                (buffer.allocation, buffer.offset),
                self._moment(instruction, buffer.at),
                "host" if temporary[buffer.allocation].on_host else "device",
            )

    def _born(self, instruction: Instruction) -> int:
        if instruction.opcode == "parameter":
            return self.span[self.home[instruction.id].id][0]
        return self.time[instruction.id]


def _called(instruction: Instruction) -> list[tuple[int, int]]:
    """The computations that run as part of the schedule, and which operand is the first parameter of each."""
    called = instruction.called if instruction.opcode in _CONTROL_FLOW else []
    match instruction.opcode:
        case "while":
            body, condition = called[:2]
            return [(condition, 0), (body, 0)]
        case "conditional":
            return [(computation, branch + 1) for branch, computation in enumerate(called)]
    return [(computation, 0) for computation in called]
