"""A program as XLA compiled it: the instructions in the order in which they run, and where their values are kept.

Read from what a loaded executable serializes, by the field numbers of xla/service/hlo.proto and xla/xla_data.proto.
Those never change their meaning; nothing else of XLA's is needed.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

from zenith_mlir.ir.location import UNKNOWN, Frame, is_user_code
from zenith_mlir.ir.wire import fields, integers

__all__ = ["Allocation", "Buffer", "Computation", "Index", "Instruction", "Program", "Shape", "read_program"]

Index = tuple[int, ...]
"""Where in a tuple of tuples a value is; () is all of it."""

HOST_MEMORY_SPACE = 5
"""xla::Layout::kHostMemorySpace, the color of buffers in pinned host memory."""


class Shape(NamedTuple):
    """An array, or with `elements` a tuple."""

    dtype: str
    dims: tuple[int, ...] = ()
    elements: tuple[Shape, ...] = ()

    def at(self, index: Index) -> Shape:
        return self.elements[index[0]].at(index[1:]) if index else self

    def indices(self) -> Iterator[Index]:
        """The place of this shape and of everything inside it."""
        yield ()
        for i, element in enumerate(self.elements):
            yield from ((i, *rest) for rest in element.indices())

    def __str__(self) -> str:
        if self.dtype == "tuple":
            return f"({', '.join(map(str, self.elements))})"
        return f"{self.dtype}[{','.join(map(str, self.dims))}]"


class Instruction(NamedTuple):
    """`op_name` is JAX's name stack of the primitive, `frame` the id of its line."""

    id: int
    name: str
    opcode: str
    shape: Shape
    operands: list[int]
    called: list[int]
    parameter: int
    tuple_index: int
    op_name: str
    frame: int


class Computation(NamedTuple):
    """A computation with its instructions, those that run by themselves in the order in which they do."""

    id: int
    root: int
    instructions: list[Instruction]


class Buffer(NamedTuple):
    """The memory of one value: `size` bytes at `offset` of `allocation`. It is what `instruction` has at `at`."""

    id: int
    size: int
    instruction: int
    at: Index
    color: int
    allocation: int
    offset: int


class Allocation(NamedTuple):
    """A piece of memory that exists while the program runs, or is its caller's or its process'."""

    id: int
    size: int
    thread_local: bool
    parameter: bool
    live_out: bool
    constant: bool
    color: int = 0

    @property
    def temporary(self) -> bool:
        return not (self.thread_local or self.parameter or self.live_out or self.constant)

    @property
    def on_host(self) -> bool:
        return self.color == HOST_MEMORY_SPACE


@dataclass(frozen=True)
class Program:
    """A scheduled module and its buffer assignment."""

    entry: Computation
    computations: Mapping[int, Computation]
    allocations: list[Allocation]
    buffers: list[Buffer]
    source: _Source

    @cached_property
    def instructions(self) -> dict[int, Instruction]:
        return {i.id: i for computation in self.computations.values() for i in computation.instructions}


def read_program(module: bytes, assignment: bytes) -> Program:
    """The program of a serialized xla.HloModuleProto and its xla.BufferAssignmentProto.

    Raises:
        WireError, KeyError, IndexError: if they are no such messages.
    """
    entry = 0
    schedule: dict[int, list[int]] = {}
    computations = {}
    source = _Source()
    for number, value in fields(module):
        if isinstance(value, int):
            entry = value if number == 6 else entry
        elif number == 3:
            computation = _computation(value)
            computations[computation.id] = computation
        elif number == 7:
            schedule = dict(_sequences(value))
        elif number == 17:
            source = _Source.read(value)
    for key, order in schedule.items():
        by_id = {instruction.id: instruction for instruction in computations[key].instructions}
        computations[key] = computations[key]._replace(instructions=[by_id[i] for i in order])
    allocations, buffers = _assignment(assignment)
    return Program(computations[entry], computations, allocations, buffers, source)


class _Source:
    """xla.StackFrameIndexProto: lines, and from which line each was called. Ids count from 1."""

    def __init__(self) -> None:
        self.files: list[str] = []
        self.functions: list[str] = []
        self.locations: list[Frame] = []
        self.frames: list[tuple[int, int]] = []

    @classmethod
    def read(cls, message: memoryview) -> _Source:
        source = cls()
        for number, value in fields(message):
            assert isinstance(value, memoryview)
            if number == 1:
                source.files.append(_text(value))
            elif number == 2:
                source.functions.append(_text(value))
            elif number == 3:
                source.locations.append(source._location(value))
            elif number == 4:
                found = _numbers(value)
                source.frames.append((found.get(1, 0), found.get(2, 0)))
        return source

    def frame(self, number: int) -> Frame:
        innermost = UNKNOWN
        while number:
            location, number = self.frames[number - 1]
            frame = self.locations[location - 1]
            if is_user_code(frame.file):
                return frame
            innermost = frame if innermost is UNKNOWN else innermost
        return innermost

    def _location(self, message: memoryview) -> Frame:
        found = _numbers(message)
        file, function = found.get(1, 0), found.get(2, 0)
        name = self.functions[function - 1] if function else ""
        return Frame(self.files[file - 1] if file else UNKNOWN.file, found.get(3, 0), found.get(4, 0), name)


def _computation(message: memoryview) -> Computation:
    key = root = 0
    instructions = []
    for number, value in fields(message):
        if isinstance(value, int):
            key = value if number == 5 else key
            root = value if number == 6 else root
        elif number == 2:
            instructions.append(_instruction(value))
    return Computation(key, root, instructions)


def _instruction(message: memoryview) -> Instruction:
    name = opcode = op_name = ""
    key = frame = parameter = tuple_index = 0
    shape = Shape("")
    operands: list[int] = []
    called: list[int] = []
    for number, value in fields(message):
        if number == 36:
            operands += integers(value)
        elif number == 38:
            called += integers(value)
        elif isinstance(value, int):
            key = value if number == 35 else key
            parameter = value if number == 9 else parameter
            tuple_index = value if number == 13 else tuple_index
        elif number == 1:
            name = _text(value)
        elif number == 2:
            opcode = _text(value)
        elif number == 3:
            shape = _shape(value)
        elif number == 7:
            op_name, frame = _metadata(value)
    return Instruction(key, name, opcode, shape, operands, called, parameter, tuple_index, op_name, frame)


def _metadata(message: memoryview) -> tuple[str, int]:
    op_name, frame = "", 0
    for number, value in fields(message):
        if number == 2 and isinstance(value, memoryview):
            op_name = _text(value)
        elif number == 15 and isinstance(value, int):
            frame = value
    return op_name, frame


def _shape(message: memoryview) -> Shape:
    dtype = 0
    dims: list[int] = []
    elements = []
    for number, value in fields(message):
        if number == 2 and isinstance(value, int):
            dtype = value
        elif number == 3:
            dims += integers(value)
        elif number == 4 and isinstance(value, memoryview):
            elements.append(_shape(value))
    return Shape(_DTYPES.get(dtype, f"type{dtype}"), tuple(dims), tuple(elements))


def _sequences(message: memoryview) -> Iterator[tuple[int, list[int]]]:
    """A map from computations to the instructions in their order."""
    for _, entry in fields(message):
        key, order = 0, []
        assert isinstance(entry, memoryview)
        for number, value in fields(entry):
            if number == 1 and isinstance(value, int):
                key = value
            elif isinstance(value, memoryview):
                order = [i for _, packed in fields(value) for i in integers(packed)]
        yield key, order


def _assignment(message: bytes) -> tuple[list[Allocation], list[Buffer]]:
    unplaced: dict[int, Buffer] = {}
    allocations = []
    buffers = []
    for number, value in fields(message):
        if number == 1 and isinstance(value, memoryview):
            buffer = _logical_buffer(value)
            unplaced[buffer.id] = buffer
        elif number == 3 and isinstance(value, memoryview):
            found = _numbers(value)
            local, parameter, live_out, constant = (bool(found.get(field)) for field in (3, 5, 7, 12))
            allocation = Allocation(
                found.get(1, 0), found.get(2, 0), local, parameter, live_out, constant, found.get(8, 0)
            )
            allocations.append(allocation)
            parts = [_numbers(part) for field, part in fields(value) if field == 9 and isinstance(part, memoryview)]
            buffers += [
                unplaced[part.get(1, 0)]._replace(size=part.get(3, 0), allocation=allocation.id, offset=part.get(2, 0))
                for part in parts
            ]
    return allocations, buffers


def _logical_buffer(message: memoryview) -> Buffer:
    """A buffer that has no place yet."""
    instruction = 0
    at: list[int] = []
    for number, value in fields(message):
        if number == 3 and isinstance(value, memoryview):
            for field, part in fields(value):
                if field == 3:
                    at += integers(part)
                elif field == 4 and isinstance(part, int):
                    instruction = part
    found = _numbers(message)
    return Buffer(found.get(1, 0), found.get(2, 0), instruction, tuple(at), found.get(4, 0), -1, 0)


def _numbers(message: memoryview) -> dict[int, int]:
    """The integer fields of a message by their numbers; a field that is 0 is not written."""
    return {number: value for number, value in fields(message) if isinstance(value, int)}


def _text(value: memoryview) -> str:
    return bytes(value).decode(errors="replace")


# xla.PrimitiveType
_DTYPES = {
    1: "pred", 2: "s8", 3: "s16", 4: "s32", 5: "s64", 6: "u8", 7: "u16", 8: "u32", 9: "u64", 10: "f16", 11: "f32",
    12: "f64", 13: "tuple", 14: "opaque", 15: "c64", 16: "bf16", 17: "token", 18: "c128", 19: "f8e5m2", 20: "f8e4m3fn",
    21: "s4", 22: "u4", 23: "f8e4m3b11fnuz", 24: "f8e5m2fnuz", 25: "f8e4m3fnuz", 26: "s2", 27: "u2", 28: "f8e4m3",
    29: "f8e3m4", 30: "s1", 31: "u1", 32: "f4e2m1fn", 33: "f8e8m0fnu", 34: "buffer",
}  # fmt: skip
