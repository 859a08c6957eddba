"""The problem of rematerialization of a program that reverse mode will differentiate, line by line."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import jax
import numpy as np
from numpy.typing import NDArray

from zenith_mlir.ir.jaxprs import scan_arguments
from zenith_mlir.remat.flat_jaxpr import flatten, nbytes
from zenith_mlir.remat.from_jaxpr import VIEWS, is_elementwise, is_fused
from zenith_mlir.remat.lines import Line, Program
from zenith_mlir.remat.needs import Needs, NeedsOf, inner_jaxprs
from zenith_mlir.remat.problem import Problem
from zenith_mlir.remat.rates import Rates

__all__ = ["Level", "problem_of_program"]


@dataclass(frozen=True, eq=False)
class Level:
    """A program, or the body of a loop in one, with what the problem knows of its lines.

    `needs` says what the backward of each line uses, `nodes` which node a line is: views and what reads nothing are
    none, they are computed again wherever they are used. `bodies` are those of the scans that are differentiated.
    """

    program: Program
    needs: list[Needs]
    nodes: dict[int, int]
    bodies: dict[int, Level]

    @cached_property
    def producer(self) -> dict[int, int]:
        """The line that each value comes from; inputs and constants come from none."""
        return {x: at for at, line in enumerate(self.program.lines) for x in line.results}

    def used(self, at: int) -> list[int]:
        """The values that the backward of line `at` uses."""
        line, needs = self.program.lines[at], self.needs[at]
        operands = (line.equation.operands[p] for p in needs.operands)
        return [*(x for x in operands if x is not None), *(line.results[k] for k in needs.results)]


def problem_of_program(program: Program, rates: Rates) -> tuple[Problem, Level, list[int]]:
    """The problem of differentiating `program` with respect to all inputs of inexact type and to what tracers it closes
    over; its outermost level; and the line that each step of the backward belongs to.

    The body of a scan is part of the problem, each of its values as often as the loop turns. What it computes again it
    does so in the one step of the loop, and of this a single turn is live. What the loop carries is kept, and so is
    what it reads from outside: a loop runs once.
    """
    writer = _Writer(rates)
    varied = {x for x in range(program.inputs) if _inexact(program.types[x])}
    varied |= {x for x, value in program.constants.items() if isinstance(value, jax.core.Tracer)}
    outermost = _LevelWriter(writer, program, varied, {})
    level = outermost.write()
    outermost.write_steps()
    return writer.problem(), level, writer.lines_of_steps


def _inexact(aval: Any) -> bool:
    return jax.dtypes.issubdtype(aval.dtype, np.inexact)


@dataclass
class _Node:
    name: str
    cost: float = 0.0
    bytes: int = 0
    transient: int = 0
    operands: Sequence[int] = ()
    repeatable: bool = True
    turns: int = 1


@dataclass(eq=False)
class _Writer:
    """The nodes of all levels and the steps of the outermost, as they are found."""

    rates: Rates
    nodes: list[_Node] = field(default_factory=list)
    uses: list[Sequence[int]] = field(default_factory=list)
    live: list[int] = field(default_factory=list)
    lines_of_steps: list[int] = field(default_factory=list)
    needs_of: NeedsOf = field(default_factory=NeedsOf)

    def node(self, node: _Node) -> int:
        self.nodes.append(node)
        return len(self.nodes) - 1

    def step(self, line: int, uses: Sequence[int], live: int) -> None:
        if uses:
            self.lines_of_steps.append(line)
            self.uses.append(uses)
            self.live.append(live)

    def problem(self) -> Problem:
        nodes = self.nodes
        return Problem.of(
            [node.cost for node in nodes],
            [node.bytes for node in nodes],
            [node.operands for node in nodes],
            self.uses,
            transient=[node.transient for node in nodes],
            repeatable=[node.repeatable for node in nodes],
            backward_base=self.live,
            offload_cost=[self.rates.offload_seconds(node.bytes) for node in nodes],
            names=[node.name for node in nodes],
        )


class _LevelWriter:
    """Finds the nodes of one level: a body that runs `turns` times, or the outermost. `outside` has the nodes that its
    inputs stand for.
    """

    def __init__(
        self, writer: _Writer, program: Program, varied: set[int], outside: dict[int, int], turns: int | None = None
    ):
        self.writer = writer
        self.program = program
        self.lines = program.lines
        self.turns = turns or 1
        self.varied = varied
        self.node = outside
        self.nodes: dict[int, int] = {}
        self.bodies: dict[int, Level] = {}
        self.live_inside: dict[int, int] = {}
        self.source = list(range(len(program.types)))
        for line in self.lines:
            if line.name in VIEWS and line.equation.operands[0] is not None:
                for x in line.results:
                    self.source[x] = self.source[line.equation.operands[0]]
        # Results of the whole program have room of their own; a loop stacks even what its body returns.
        self.room = {self.source[x] for x in program.outputs if x is not None and turns is None}
        self.users: dict[int, list[int]] = {}
        for at, line in enumerate(self.lines):
            if not self.is_view(line):
                for x in {self.source[x] for x in line.reads}:
                    self.users.setdefault(x, []).append(at)

    def is_view(self, line: Line) -> bool:
        return any(self.source[x] != x for x in line.results)

    def write(self) -> Level:
        self.needs = self.find_needs()
        level = Level(self.program, self.needs, self.nodes, self.bodies)
        self.uses = [self.write_line(level, at) for at in range(len(self.lines))]
        return level

    def write_steps(self) -> None:
        """Add a step for the backward of each line that uses something of the forward."""
        live = self.cotangents()
        for at in reversed(range(len(self.lines))):
            self.writer.step(at, self.uses[at], int(live[at]))

    def write_line(self, level: Level, at: int) -> list[int]:
        """Add the nodes of a line; the nodes that its backward uses."""
        line = self.lines[at]
        if self.is_view(line) or not (line.reads or line.equation.has_effects):
            return self.nodes_of(level.used(at))
        if line.name == "scan" and self.needs[at].opaque:
            return self.write_scan(at)
        size = self.bytes(at)
        self.add(
            at,
            _Node(
                line.name,
                self.turns * self.seconds(line),
                self.turns * size,
                0 if self.is_fused(at) else size,
                self.nodes_of(line.reads),
                not line.equation.has_effects,
                self.turns,
            ),
        )
        return self.nodes_of(level.used(at))

    def add(self, at: int, node: _Node) -> None:
        self.nodes[at] = self.writer.node(node)
        self.node.update(dict.fromkeys(self.lines[at].results, self.nodes[at]))

    def write_scan(self, at: int) -> list[int]:
        """The nodes of the body, then one for the results of the loop; what the backward of the loop uses."""
        line = self.lines[at]
        body = line.body
        constants, carried = scan_arguments(line.eqn)
        turns = self.turns * line.equation.params["length"]
        outside: dict[int, int] = {}
        varied: set[int] = set()
        operands = self.nodes_of(line.reads)
        for x, operand in enumerate(line.equation.operands):
            if constants <= x < constants + carried:
                size = nbytes(body.types[x])
                outside[x] = self.writer.node(_Node("carry", 0.0, turns * size, size, operands, False, turns))
                varied |= {x} if _inexact(body.types[x]) else set()
            elif operand is not None:
                if (source := self.source[operand]) in self.node:
                    outside[x] = self.node[source]
                varied |= {x} if operand in self.varied else set()
        inner = _LevelWriter(self.writer, body, varied, outside, turns)
        first = len(self.writer.nodes)
        self.bodies[at] = inner.write()
        uses = sorted({i for used in inner.uses for i in used})
        self.live_inside[at] = int(inner.cotangents().max(initial=0))
        for i in uses:
            # Computed again, it waits for the rest of the turn.
            self.writer.nodes[i].transient = self.writer.nodes[i].bytes // self.writer.nodes[i].turns
        # What the loop reads waits for its backward as it is.
        read = {i for node in self.writer.nodes[first:] for i in node.operands} | set(uses)
        for i in read & set(operands):
            self.writer.nodes[i].repeatable = False
        size = self.bytes(at)
        self.add(at, _Node("scan", 0.0, self.turns * size, size, operands, False, self.turns))
        return uses

    def find_needs(self) -> list[Needs]:
        """What the backward of each line uses: nothing where no output varies with what it computes."""
        found: list[Needs] = []
        for line in self.lines:
            needs = self.writer.needs_of(line, [x in self.varied for x in line.equation.operands])
            self.varied.update(_chosen(line.results, needs.varies))
            found.append(needs)
        reached = {x for x in self.program.outputs if x in self.varied}
        for at in reversed(range(len(found))):
            line = self.lines[at]
            if reached.isdisjoint(_chosen(line.results, found[at].varies)):
                found[at] = Needs(varies=(False,) * len(line.results))
            else:
                reached.update(x for x in line.reads if x in self.varied)
        self.varied &= reached
        return found

    def nodes_of(self, values: Iterable[int]) -> list[int]:
        return sorted({self.node[self.source[x]] for x in values if self.source[x] in self.node})

    def bytes(self, at: int) -> int:
        """What the results of a line take."""
        line = self.lines[at]
        hidden = 0 if line.name == "scan" else self.needs[at].hidden
        pairs = zip(line.results, line.equation.result_types, strict=True)
        return hidden + sum(nbytes(type_) for x, type_ in pairs if x not in self.room)

    def is_fused(self, at: int) -> bool:
        """Whether XLA computes a line inside of its users."""
        line = self.lines[at]
        users = [self.lines[user].equation for x in line.results for user in self.users.get(x, [])]
        return is_fused(line.equation, users)

    def seconds(self, line: Line) -> float:
        inside = inner_jaxprs(line)
        if inside and line.name not in ("scan", "while", "cond"):
            return sum(self.writer.rates.seconds(inner) for jaxpr in inside for inner in flatten(jaxpr).equations)
        return self.writer.rates.seconds(line.equation)

    def cotangents(self) -> NDArray[np.int64]:
        """Bytes of cotangents live in the backward of each line: of values that vary, from its own or a line before,
        and that it or a later line uses.
        """
        change = np.zeros(len(self.lines) + 1, np.int64)
        for at, line in enumerate(self.lines):
            for x, type_ in zip(line.results, line.equation.result_types, strict=True):
                users = self.users.get(x, [])
                if x in self.varied and users and not self.is_fused_backward(at, users):
                    change[at] += nbytes(type_)
                    change[users[-1] + 1] -= nbytes(type_)
        live = np.cumsum(change[:-1])
        for at, size in self.live_inside.items():
            live[at] += size
        return live

    def is_fused_backward(self, at: int, users: Sequence[int]) -> bool:
        both = self.lines[at].equation, self.lines[users[0]].equation
        return len(users) == 1 and all(map(is_elementwise, both))


def _chosen(values: Iterable[int], flags: Iterable[bool]) -> list[int]:
    return [x for x, flag in zip(values, flags, strict=True) if flag]
