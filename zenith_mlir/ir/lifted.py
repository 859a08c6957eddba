"""Arrays that a function closes over, as arguments.

JAX writes what a jaxpr holds of them into the module, number by number. Here a jaxpr is run once more, under another
trace, with some of these arrays replaced by tracers, at any depth: in calls of jitted functions, in the bodies of loops
and in branches. What holds none of them is bound as it was.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax.extend.core import ClosedJaxpr, Literal
from jax.extend.source_info_util import register_exclusion

from zenith_mlir.ir import jaxprs

__all__ = ["constants", "evaluate", "identity"]

# Frames of this file are not the user's: JAX leaves them out of source locations.
register_exclusion(__file__)

Evaluate = Callable[..., list[Any]]


def identity(array: Any) -> Hashable:
    """Equal for two objects that are one array. JAX wraps NumPy arrays anew wherever a function uses them."""
    if isinstance(array, jax.Array):
        return id(array)
    host = np.asarray(array)
    return host.__array_interface__["data"][0], host.shape, host.strides, str(host.dtype)


def constants(closed: Any, wanted: Callable[[Any], bool]) -> dict[Hashable, Any]:
    """The arrays that a closed jaxpr holds, at any depth where `evaluate` reaches them, by `identity`."""
    found = {identity(const): const for const in closed.consts if wanted(const)}
    for eqn in closed.jaxpr.eqns:
        if eqn.primitive.name in _INSIDE:
            for called in _called(eqn):
                found |= constants(called, wanted)
    return found


def evaluate(closed: Any, replaced: Mapping[Hashable, Any], *arguments: Any) -> list[Any]:
    """The results of a closed jaxpr with the arrays of these identities replaced."""
    values: dict[Any, Any] = dict(zip(closed.jaxpr.invars, arguments, strict=True))
    for var, const in zip(closed.jaxpr.constvars, closed.consts, strict=True):
        values[var] = replaced.get(identity(const), const)

    def read(atom: Any) -> Any:
        return atom.val if isinstance(atom, Literal) else values[atom]

    def inside(called: Any) -> Evaluate:
        return lambda *arguments: evaluate(_closed(called), replaced, *arguments)

    for eqn in closed.jaxpr.eqns:
        operands = [read(atom) for atom in eqn.invars]
        if eqn.primitive.name in _INSIDE and any(_holds(called, replaced) for called in _called(eqn)):
            with jaxprs.at_source(eqn):
                results = _INSIDE[eqn.primitive.name](eqn, operands, inside)
        else:
            results = jaxprs.evaluate(eqn, operands)
        values.update(zip(eqn.outvars, results, strict=True))
    return [read(atom) for atom in closed.jaxpr.outvars]


def _holds(closed: Any, replaced: Mapping[Hashable, Any]) -> bool:
    return bool(constants(closed, lambda const: identity(const) in replaced))


def _called(eqn: Any) -> Iterator[Any]:
    """The jaxprs among an equation's parameters, closed."""
    for parameter in eqn.params.values():
        for item in parameter if isinstance(parameter, tuple | list) else (parameter,):
            if hasattr(item, "eqns"):
                yield _closed(item)


def _closed(jaxpr: Any) -> Any:
    return jaxpr if hasattr(jaxpr, "consts") else ClosedJaxpr(jaxpr, ())


# ---- Equations that hold jaxprs, with what runs them ----


def _call(parameter: str) -> Callable[..., list[Any]]:
    def run(eqn: Any, operands: Sequence[Any], inside: Callable[[Any], Evaluate]) -> list[Any]:
        return inside(eqn.params[parameter])(*operands)

    return run


def _scan(eqn: Any, operands: Sequence[Any], inside: Callable[[Any], Evaluate]) -> list[Any]:
    constants, carried = jaxprs.scan_arguments(eqn)
    outer, initial, rows = operands[:constants], operands[constants:][:carried], operands[constants + carried :]
    body = inside(eqn.params["jaxpr"])

    def step(carry: list[Any], row: list[Any]) -> tuple[list[Any], list[Any]]:
        results = body(*outer, *carry, *row)
        return results[:carried], results[carried:]

    options = {name: eqn.params[name] for name in ("length", "reverse", "unroll")}
    last, stacked = jax.lax.scan(step, list(initial), list(rows), **options)
    return [*last, *stacked]


def _while(eqn: Any, operands: Sequence[Any], inside: Callable[[Any], Evaluate]) -> list[Any]:
    of_condition, of_body = eqn.params["cond_nconsts"], eqn.params["body_nconsts"]
    outer_condition, outer_body = operands[:of_condition], operands[of_condition:][:of_body]
    condition, body = inside(eqn.params["cond_jaxpr"]), inside(eqn.params["body_jaxpr"])
    return list(
        jax.lax.while_loop(
            lambda carry: condition(*outer_condition, *carry)[0],
            lambda carry: body(*outer_body, *carry),
            list(operands[of_condition + of_body :]),
        )
    )


def _cond(eqn: Any, operands: Sequence[Any], inside: Callable[[Any], Evaluate]) -> list[Any]:
    index, *rest = operands
    return list(jax.lax.switch(index, [inside(branch) for branch in eqn.params["branches"]], *rest))


# Nothing is differentiated any more, so checkpoints and functions with rules of their own are calls.
_INSIDE: dict[str, Callable[..., list[Any]]] = {
    "jit": _call("jaxpr"),
    "pjit": _call("jaxpr"),
    "closed_call": _call("call_jaxpr"),
    "core_call": _call("call_jaxpr"),
    "checkpoint": _call("jaxpr"),
    "remat2": _call("jaxpr"),
    "custom_jvp_call": _call("call_jaxpr"),
    "custom_vjp_call": _call("call_jaxpr"),
    "scan": _scan,
    "while": _while,
    "cond": _cond,
}
