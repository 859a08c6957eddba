"""A jaxpr as one list of equations: calls inlined, dead equations gone, values numbered."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jax.extend.core import ClosedJaxpr, Jaxpr, JaxprEqn

__all__ = ["Equation", "FlatJaxpr", "elements", "flatten", "nbytes"]

# Equations that only call a jaxpr, and the parameter that holds it.
_CALLS = {
    "jit": "jaxpr",
    "pjit": "jaxpr",
    "closed_call": "call_jaxpr",
    "core_call": "call_jaxpr",
    "remat2": "jaxpr",
    "checkpoint": "jaxpr",
    "custom_jvp_call": "call_jaxpr",
    "custom_vjp_call": "call_jaxpr",
    "custom_vjp_call_jaxpr": "fun_jaxpr",
}


@dataclass(frozen=True, eq=False)
class Equation:
    """`results = name(operands)`. Values are numbers; an operand that is a literal is None.

    `operand_types` and `result_types` are avals. `scope` is the name stack of JAX, for people.
    """

    name: str
    params: Mapping[str, Any]
    operands: tuple[int | None, ...]
    results: tuple[int, ...]
    operand_types: tuple[Any, ...]
    result_types: tuple[Any, ...]
    has_effects: bool
    scope: str

    @property
    def reads(self) -> tuple[int, ...]:
        """The operands that are values."""
        return tuple(x for x in self.operands if x is not None)


@dataclass(frozen=True, eq=False)
class FlatJaxpr:
    """Values below `inputs` are the inputs of the jaxpr, those after them, up to the first result, its constants."""

    equations: list[Equation]
    inputs: int
    outputs: tuple[int | None, ...]
    types: list[Any]


def elements(aval: Any) -> int:
    """How many numbers a value of this type has."""
    count = 1
    for size in getattr(aval, "shape", ()):
        count *= int(size)
    return count


def nbytes(aval: Any) -> int:
    """Bytes of a value of this type; 0 for what is no array."""
    dtype = getattr(aval, "dtype", None)
    return elements(aval) * int(dtype.itemsize) if dtype is not None else 0


@dataclass(eq=False)
class _Flattener:
    types: list[Any] = field(default_factory=list)
    equations: list[Equation] = field(default_factory=list)

    def new(self, aval: Any) -> int:
        self.types.append(aval)
        return len(self.types) - 1

    def run(self, jaxpr: Jaxpr, arguments: list[int | None], constants: list[int | None]) -> list[int | None]:
        numbers: dict[Any, int | None] = dict(zip(jaxpr.invars, arguments, strict=True))
        numbers.update(zip(jaxpr.constvars, constants, strict=True))

        def number(atom: Any) -> int | None:
            # Literals have a value and are not hashed.
            return None if hasattr(atom, "val") else numbers[atom]

        for eqn in jaxpr.eqns:
            operands = [number(x) for x in eqn.invars]
            called = eqn.params.get(_CALLS.get(eqn.primitive.name, ""))
            if called is None:
                results: list[int | None] = list(self.append(eqn, operands))
            elif hasattr(called, "jaxpr"):
                results = self.run(called.jaxpr, operands, [self.new(v.aval) for v in called.jaxpr.constvars])
            else:
                results = self.run(called, operands, [])
            numbers.update(zip(eqn.outvars, results, strict=True))
        return [number(x) for x in jaxpr.outvars]

    def append(self, eqn: JaxprEqn, operands: list[int | None]) -> tuple[int, ...]:
        results = tuple(self.new(v.aval) for v in eqn.outvars)
        self.equations.append(
            Equation(
                eqn.primitive.name,
                eqn.params,
                tuple(operands),
                results,
                tuple(x.aval for x in eqn.invars),
                tuple(v.aval for v in eqn.outvars),
                bool(eqn.effects),
                str(eqn.source_info.name_stack),
            )
        )
        return results


def flatten(jaxpr: ClosedJaxpr | Jaxpr) -> FlatJaxpr:
    """The equations of `jaxpr`, closed or not, that matter for its outputs or have effects, in order."""
    flat = _Flattener()
    inner: Any = getattr(jaxpr, "jaxpr", jaxpr)
    inputs: list[int | None] = [flat.new(v.aval) for v in inner.invars]
    constants: list[int | None] = [flat.new(v.aval) for v in inner.constvars]
    outputs = tuple(flat.run(inner, inputs, constants))
    live = set(outputs)
    equations: list[Equation] = []
    for equation in reversed(flat.equations):
        if equation.has_effects or not live.isdisjoint(equation.results):
            live.update(equation.reads)
            equations.append(equation)
    return FlatJaxpr(equations[::-1], len(inputs), outputs, flat.types)
