"""The instruction that computes a value, for people: behind copies, fusions, loops and stacks of what loops kept."""

from __future__ import annotations

from zenith_mlir.ir.hlo import Computation, Index, Instruction, Program
from zenith_mlir.ir.location import UNKNOWN, Frame

__all__ = ["Origins"]

# The same numbers elsewhere, or in another order or type.
_MOVES = {"bitcast", "copy", "opt-barrier", "convert", "transpose", "reshape", "add-dependency", "domain", "copy-start"}


class Origins:
    """Looks up what made the values of one program."""

    def __init__(self, program: Program):
        self.program = program
        self._home: dict[int, Computation] = {}
        self._caller: dict[int, Instruction] = {}
        for computation in program.computations.values():
            for instruction in computation.instructions:
                self._home[instruction.id] = computation
                for called in instruction.called:
                    self._caller.setdefault(called, instruction)

    def of(self, instruction: Instruction, index: Index = ()) -> tuple[str, Frame]:
        """What computes the value of `instruction` at `index`: JAX's name of the primitive (XLA's opcode where there is
        none), and the user's line.
        """
        seen: set[tuple[int, Index]] = set()
        named = located = None
        place: tuple[int, Index] | None = (instruction.id, index)
        while place is not None and place not in seen:
            seen.add(place)
            instruction = self.program.instructions[place[0]]
            named = instruction if instruction.op_name else named
            located = instruction if instruction.frame else located
            place = self._before(instruction, place[1])
        named = instruction if instruction.opcode != "parameter" and instruction.op_name else named
        frame = UNKNOWN if located is None else self.program.source.frame(located.frame)
        return (instruction.opcode if named is None else named.op_name), frame

    def _before(self, instruction: Instruction, index: Index) -> tuple[int, Index] | None:
        """One step towards the instruction that computes; None when there."""
        operands = instruction.operands
        if instruction.opcode in _MOVES:
            return operands[0], index
        match instruction.opcode:
            case "get-tuple-element":
                return operands[0], (instruction.tuple_index, *index)
            case "tuple" if index:
                return operands[index[0]], index[1:]
            case "dynamic-update-slice":  # a stack: of what is put on it
                return operands[1], index
            case "while" | "call" | "fusion":
                return self.program.computations[instruction.called[0]].root, index
            case "copy-done":
                return operands[0], (0, *index)
            case "parameter":
                return self._given(instruction, index)
        return None

    def _given(self, parameter: Instruction, index: Index) -> tuple[int, Index] | None:
        """What a parameter stands for: what the last iteration of a loop left, or the caller's operand."""
        home = self._home[parameter.id]
        caller = self._caller.get(home.id)
        if caller is None or parameter.parameter >= len(caller.operands):
            return None
        if caller.opcode == "while":
            body = self.program.computations[caller.called[0]]
            return (body.root, index) if index and not self._unchanged(body, index) else (caller.operands[0], index)
        return caller.operands[parameter.parameter], index

    def _unchanged(self, body: Computation, index: Index) -> bool:
        """Whether a loop hands an element of its state on as it is."""
        root = self.program.instructions[body.root]
        if root.opcode != "tuple":
            return False
        element = self.program.instructions[root.operands[index[0]]]
        if element.opcode != "get-tuple-element" or element.tuple_index != index[0]:
            return False
        return self.program.instructions[element.operands[0]].opcode == "parameter"
