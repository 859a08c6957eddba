"""Splicing a JAX function into a module: it is traced for a platform, and its operations take the place of an
operation.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from typing import Any

from jaxlib.mlir import ir

from zenith_mlir.dialects.implementation import TensorSpec
from zenith_mlir.ir.facts import walk
from zenith_mlir.ir.inline import inline_all_calls, inline_body
from zenith_mlir.ir.symbols import functions


def splice_function(
    op: ir.Operation, key: Hashable, function: Callable[..., Any], operands: Sequence[TensorSpec], platform: str
) -> None:
    """Replace `op` by what `function` traces to on arrays like `operands`.

    Tracing costs some 25 ms, so its text is kept by `key`, which must say all that `function` depends on.
    """
    entry = (key, platform)
    if entry not in _traced:
        _traced[entry] = _trace(function, operands, platform)
    traced = ir.Module.parse(_traced[entry])
    inline_all_calls(traced.operation)
    main = functions(traced.operation)["main"]
    for inner in walk(main):
        inner.location = op.location
    inline_body(main, op)


# A cache, not state: an entry says what its key traces to, whoever asks.
_traced: dict[Hashable, str] = {}


def _trace(function: Callable[..., Any], operands: Sequence[TensorSpec], platform: str) -> str:
    import jax

    arguments = [jax.ShapeDtypeStruct(spec.shape, spec.dtype) for spec in operands]
    with jax.enable_x64(True):  # or 64-bit operands would be traced as 32-bit ones
        lowered = jax.jit(function, keep_unused=True).trace(*arguments).lower(lowering_platforms=(platform,))
    return str(lowered.compiler_ir("stablehlo"))
