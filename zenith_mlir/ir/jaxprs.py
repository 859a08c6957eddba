"""Running a jaxpr equation by equation, for those who put something in between."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

# Private: what jax.core.eval_jaxpr itself does for an equation, so that locations still name the user's lines. The
# same from 0.10 to 0.12 (test_jaxprs.py).
from jax._src import source_info_util

__all__ = ["closed_call", "evaluate"]

# Equations that only call a jaxpr, and the parameter that holds it.
_CALLS = {"jit": "jaxpr", "pjit": "jaxpr", "closed_call": "call_jaxpr", "core_call": "call_jaxpr"}


def evaluate(eqn: Any, operands: Sequence[Any]) -> list[Any]:
    """The results of an equation for these operands, literals included, at the place in the source it comes from."""
    names = source_info_util.current_name_stack() + eqn.source_info.name_stack
    parameters = eqn.primitive.get_bind_params(eqn.params)
    with source_info_util.user_context(eqn.source_info.traceback, name_stack=names), eqn.ctx.manager:
        results = eqn.primitive.bind(*operands, **parameters)
    return list(results) if eqn.primitive.multiple_results else [results]


def closed_call(eqn: Any) -> Any:
    """The closed jaxpr that an equation stands for, if it says no more than that: no shardings, layouts or options."""
    called = eqn.params.get(_CALLS.get(eqn.primitive.name, ""))
    if called is None or not hasattr(called, "consts"):
        return None
    plain = all(_says_nothing(value) for name, value in eqn.params.items() if name.startswith(("in_", "out_")))
    return called if plain and not eqn.params.get("compiler_options_kvs") else None


def _says_nothing(parameter: Any) -> bool:
    items = parameter if isinstance(parameter, tuple) else (parameter,)
    return all(item is None or type(item).__name__ in ("UnspecifiedValue", "AUTO") for item in items)
