"""Naming the results of a line so that a policy of jax.checkpoint can keep them, for its own backward too."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
from jax.ad_checkpoint import checkpoint_name
from jax.custom_derivatives import SymbolicZero
from jax.extend.source_info_util import register_exclusion

from zenith_mlir.ir.jaxprs import at_source
from zenith_mlir.remat.lines import Line, Program

__all__ = ["run_named"]

# Frames of this file are not the user's: JAX leaves them out of source locations.
register_exclusion(__file__)


def run_named(line: Line, operands: Sequence[Any], names: Sequence[str], own: bool) -> list[Any]:
    """The results of `line`, under these names. `own` says that its backward uses its results."""
    if own:
        return _with_named_derivative(line, names)(*operands)
    return _label(line, line.run(operands), names)


def _label(line: Line, values: Sequence[Any], names: Sequence[str]) -> list[Any]:
    with at_source(line.eqn):
        return list(map(checkpoint_name, values, names))


def _with_named_derivative(line: Line, names: Sequence[str]) -> Callable[..., list[Any]]:
    """The derivative of tanh reads what tanh returns, not what checkpoint_name makes of that, so a policy that keeps
    the name would still compute tanh again. Here the derivative, whatever it is, reads the named results.
    """

    @jax.custom_jvp
    def run(*operands: Any) -> list[Any]:
        return _label(line, line.run(operands), names)

    def jvp(primals: Sequence[Any], tangents: Sequence[Any]) -> Any:
        moving = [k for k, tangent in enumerate(tangents) if not isinstance(tangent, SymbolicZero)]

        def of(*varied: Any) -> list[Any]:
            operands = list(primals)
            for k, x in zip(moving, varied, strict=True):
                operands[k] = x
            return line.run(operands)

        arguments = [primals[k] for k in moving], [tangents[k] for k in moving]
        program = Program.of(jax.make_jaxpr(lambda xs, ts: jax.jvp(of, xs, ts))(*arguments))
        labels = dict(zip(program.outputs, names, strict=False))
        values = program.start([*arguments[0], *arguments[1]])
        for inner in program.lines:
            for x, result in zip(inner.results, inner.run(inner.operands(values)), strict=True):
                values[x] = _label(line, [result], [labels[x]])[0] if x in labels else result
        results = program.finish(values)
        return results[: len(names)], results[len(names) :]

    run.defjvp(jvp, symbolic_zeros=True)
    return run
