"""A JAX function as a list of lines that can be run one by one: calls inlined, dead lines gone, values numbered."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import jax
from jax.extend.source_info_util import register_exclusion

from zenith_mlir.ir.jaxprs import closed_call, evaluate
from zenith_mlir.remat.flat_jaxpr import Equation

__all__ = ["Line", "Program"]

# Frames of this file are not the user's: JAX leaves them out of source locations.
register_exclusion(__file__)


@dataclass(frozen=True, eq=False)
class Line:
    """An equation of JAX, to be run, and the same in numbers of values, to be looked at."""

    eqn: Any
    equation: Equation

    @property
    def name(self) -> str:
        return self.equation.name

    @property
    def reads(self) -> tuple[int, ...]:
        return self.equation.reads

    @property
    def results(self) -> tuple[int, ...]:
        return self.equation.results

    @cached_property
    def body(self) -> Program:
        """What a scan runs in each turn."""
        return Program.of(self.equation.params["jaxpr"])

    def run(self, operands: Sequence[Any]) -> list[Any]:
        """The results for these operands, literals included."""
        return evaluate(self.eqn, operands)

    def operands(self, values: Mapping[int, Any]) -> list[Any]:
        """Literals, and for the others what `values` has."""
        pairs = zip(self.equation.operands, self.eqn.invars, strict=True)
        return [atom.val if number is None else values[number] for number, atom in pairs]


@dataclass(frozen=True, eq=False)
class Program:
    """Values are numbers: first the inputs, then among the results of lines the constants. `outputs` that are literals
    stand in `literals` by position.
    """

    lines: list[Line]
    inputs: int
    constants: dict[int, Any]
    outputs: tuple[int | None, ...]
    literals: dict[int, Any]
    types: list[Any]

    @classmethod
    def of(cls, jaxpr: Any) -> Program:
        """The program of a closed jaxpr."""
        writer = _Writer()
        inputs = [writer.new(v.aval) for v in jaxpr.jaxpr.invars]
        outputs = writer.write(jaxpr, inputs)
        numbers = tuple(x if isinstance(x, int) else None for x in outputs)
        literals = {k: x.val for k, x in enumerate(outputs) if not isinstance(x, int)}
        return cls(writer.live(numbers), len(inputs), writer.constants, numbers, literals, writer.types)

    @classmethod
    def trace(cls, fun: Callable[..., Any], arrays: Sequence[Any]) -> tuple[Program, Any]:
        """The program of `fun` for `arrays` or what has their shapes, and the shapes of its result, a pytree."""
        jaxpr, shapes = jax.make_jaxpr(fun, return_shape=True)(*arrays)
        return cls.of(jaxpr), shapes

    @cached_property
    def signature(self) -> Hashable:
        """Equal for programs of the same operations on the same types: what is decided for one fits the other."""
        lines = tuple(
            (
                line.name,
                line.equation.operands,
                line.results,
                tuple(map(_type, line.equation.result_types)),
                line.body.signature if line.name == "scan" else None,
            )
            for line in self.lines
        )
        return self.inputs, self.outputs, tuple(map(_type, self.types[: self.inputs])), tuple(self.constants), lines

    def start(self, arguments: Sequence[Any]) -> dict[int, Any]:
        """The values that are there before the first line."""
        return {**self.constants, **dict(enumerate(arguments))}

    def finish(self, values: Mapping[int, Any]) -> list[Any]:
        """The outputs, once all lines have run."""
        return [self.literals[k] if x is None else values[x] for k, x in enumerate(self.outputs)]

    def run(self, arguments: Sequence[Any]) -> list[Any]:
        """The outputs for these arguments."""
        values = self.start(arguments)
        for line in self.lines:
            values.update(zip(line.results, line.run(line.operands(values)), strict=True))
        return self.finish(values)


def _type(aval: Any) -> Hashable:
    return getattr(aval, "shape", ()), str(getattr(aval, "dtype", aval))


@dataclass(eq=False)
class _Writer:
    types: list[Any] = field(default_factory=list)
    lines: list[Line] = field(default_factory=list)
    constants: dict[int, Any] = field(default_factory=dict)

    def new(self, aval: Any) -> int:
        self.types.append(aval)
        return len(self.types) - 1

    def constant(self, aval: Any, value: Any) -> int:
        number = self.new(aval)
        self.constants[number] = value
        return number

    def write(self, closed: Any, arguments: list[Any]) -> list[Any]:
        """Append the lines of `closed`; its outputs. Arguments and outputs are numbers, or literals."""
        jaxpr = closed.jaxpr
        numbers: dict[Any, Any] = dict(zip(jaxpr.invars, arguments, strict=True))
        pairs = zip(jaxpr.constvars, closed.consts, strict=True)
        numbers.update((variable, self.constant(variable.aval, value)) for variable, value in pairs)

        def read(atom: Any) -> Any:
            # Literals have a value and are not hashed.
            return atom if hasattr(atom, "val") else numbers[atom]

        for eqn in jaxpr.eqns:
            operands = [read(x) for x in eqn.invars]
            called = closed_call(eqn)
            results = self.append(eqn, operands) if called is None else self.write(called, operands)
            numbers.update(zip(eqn.outvars, results, strict=True))
        return [read(x) for x in jaxpr.outvars]

    def append(self, eqn: Any, operands: list[Any]) -> list[int]:
        results = [self.new(v.aval) for v in eqn.outvars]
        # Inside of an inlined call an operand may be a literal of the caller.
        invars = [atom if isinstance(x, int) else x for atom, x in zip(eqn.invars, operands, strict=True)]
        self.lines.append(
            Line(
                eqn.replace(invars=invars),
                Equation(
                    eqn.primitive.name,
                    eqn.params,
                    tuple(x if isinstance(x, int) else None for x in operands),
                    tuple(results),
                    tuple(x.aval for x in invars),
                    tuple(v.aval for v in eqn.outvars),
                    bool(eqn.effects),
                    str(eqn.source_info.name_stack),
                ),
            )
        )
        return results

    def live(self, outputs: Sequence[int | None]) -> list[Line]:
        """The lines that matter for `outputs` or have effects."""
        needed = set(outputs)
        kept: list[Line] = []
        for line in reversed(self.lines):
            if line.equation.has_effects or not needed.isdisjoint(line.results):
                needed.update(line.reads)
                kept.append(line)
        return kept[::-1]
