"""What the backward of a line uses: which operands, whether its own results, and what JAX keeps beside these."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend.core import jaxprs_in_params

from zenith_mlir.remat.flat_jaxpr import nbytes
from zenith_mlir.remat.lines import Line, Program

__all__ = ["Needs", "NeedsOf", "inner_jaxprs"]

# What these make of a value takes no more memory than the value.
_SMALL = frozenset({"reshape", "squeeze", "expand_dims", "transpose", "stop_gradient", "copy", "copy_p", "name"})


@dataclass(frozen=True)
class Needs:
    """Positions of the operands and of the results that the backward of a line uses, and which results vary with what
    is differentiated. `derived` says that JAX keeps, left alone, not these but what it computes of them, 1 - y² for a
    tanh.

    A line is `opaque` if its derivative keeps values that have no name outside of it, `hidden` bytes of them: a loop, a
    branch, a custom derivative. What it keeps is all or nothing.
    """

    operands: tuple[int, ...] = ()
    results: tuple[int, ...] = ()
    varies: tuple[bool, ...] = ()
    derived: bool = False
    opaque: bool = False
    hidden: int = 0


class NeedsOf:
    """`Needs` of lines, found once for equal ones: a program of equal layers asks for one of them."""

    def __init__(self) -> None:
        self._found: dict[Any, Needs] = {}

    def __call__(self, line: Line, varied: Sequence[bool]) -> Needs:
        """What the derivative with respect to the `varied` operands needs."""
        if not any(varied):
            return Needs(varies=(False,) * len(line.results))
        key = self._key(line, tuple(varied))
        if key not in self._found:
            self._found[key] = _find(line, tuple(varied))
        return self._found[key]

    @staticmethod
    def _key(line: Line, varied: tuple[bool, ...]) -> Any:
        types = tuple(map(str, line.equation.operand_types))
        literals = tuple(str(atom.val) for atom in line.eqn.invars if hasattr(atom, "val"))
        parameters = tuple(sorted(line.eqn.params.items()))
        try:
            hash(parameters)
        except TypeError:
            return id(line)
        return line.eqn.primitive, parameters, types, literals, varied


def _find(line: Line, varied: tuple[bool, ...]) -> Needs:
    if _is_opaque(line):
        return _of_opaque(line, varied)
    return _of_derivative(line, varied)


def inner_jaxprs(line: Line) -> list[Any]:
    """The jaxprs that a line holds."""
    return list(jaxprs_in_params(line.eqn.params))


def _is_opaque(line: Line) -> bool:
    # The jaxpr of a custom jvp is not differentiated.
    return line.name != "custom_jvp_call" and bool(inner_jaxprs(line))


def _abstract(line: Line, varied: tuple[bool, ...]) -> tuple[list[Any], list[Any], Any]:
    """Operands that vary and others, as shapes, and a function of both that runs the line."""
    operands: list[Any] = [
        atom.val if number is None else jax.ShapeDtypeStruct(type_.shape, type_.dtype)
        for number, atom, type_ in zip(
            line.equation.operands, line.eqn.invars, line.equation.operand_types, strict=True
        )
    ]

    def run(moving: Sequence[Any], still: Sequence[Any]) -> list[Any]:
        moving_, still_ = iter(moving), iter(still)
        return line.run([next(moving_) if v else next(still_) for v in varied])

    moving = [x for x, v in zip(operands, varied, strict=True) if v]
    return moving, [x for x, v in zip(operands, varied, strict=True) if not v], run


def _of_derivative(line: Line, varied: tuple[bool, ...]) -> Needs:
    """From the jaxpr of the jvp: what is computed from tangents reads the values that the backward uses."""
    moving, still, run = _abstract(line, varied)

    def jvp(moving: list[Any], still: list[Any], tangents: list[Any]) -> Any:
        return jax.jvp(lambda *xs: run(xs, still), tuple(moving), tuple(tangents))

    program = Program.of(jax.make_jaxpr(jvp)(moving, still, moving))
    count = len(line.results)
    tangent = set(range(len(moving) + len(still), program.inputs))
    producer = {x: inner for inner in program.lines for x in inner.results}
    results = {x: k for k, x in enumerate(program.outputs[:count]) if x is not None}
    stack: list[int] = []
    for inner in program.lines:
        if not tangent.isdisjoint(inner.reads):
            tangent.update(inner.results)
            stack.extend(inner.reads)
    used: set[int] = set()
    derived = False
    while stack:
        x = stack.pop()
        if x in used or x in tangent:
            continue
        used.add(x)
        if x in producer and x not in results:
            derived = derived or producer[x].name not in _SMALL
            stack.extend(producer[x].reads)
    order = [p for p, v in enumerate(varied) if v] + [p for p, v in enumerate(varied) if not v]
    inputs = range(len(moving) + len(still))
    return Needs(
        tuple(sorted(order[x] for x in used if x in inputs and line.equation.operands[order[x]] is not None)),
        tuple(sorted(results[x] for x in used if x in results and x not in inputs)),
        tuple(x in tangent for x in program.outputs[count:]),
        derived,
    )


def _of_opaque(line: Line, varied: tuple[bool, ...]) -> Needs:
    """Every operand, and what reverse mode keeps that is none of them."""
    moving, still, run = _abstract(line, varied)

    def kept(moving: list[Any], still: list[Any]) -> Any:
        return jax.vjp(lambda *xs: run(xs, still), *moving)[1]

    jaxpr = jax.make_jaxpr(kept)(moving, still).jaxpr
    there = {*jaxpr.invars, *jaxpr.constvars}
    hidden = {v for v in jaxpr.outvars if not hasattr(v, "val") and v not in there}
    operands = tuple(p for p, x in enumerate(line.equation.operands) if x is not None)
    varies = tuple(jnp.issubdtype(t.dtype, jnp.inexact) for t in line.equation.result_types)
    return Needs(operands, (), varies, False, True, sum(nbytes(v.aval) for v in hidden))
