"""Running a jaxpr equation by equation, for those who put something in between."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

# Private: what jax.core.eval_jaxpr itself does for an equation, so that locations still name the user's lines. The
# same from 0.10 to 0.12 (test_jaxprs.py).
from jax._src import source_info_util
from jax.extend.source_info_util import register_exclusion

__all__ = ["at_source", "closed_call", "evaluate", "scan_arguments"]

# Frames of this file are not the user's: JAX leaves them out of source locations.
register_exclusion(__file__)

# Equations that only call a jaxpr, and the parameter that holds it.
_CALLS = {"jit": "jaxpr", "pjit": "jaxpr", "closed_call": "call_jaxpr", "core_call": "call_jaxpr"}


@contextmanager
def at_source(eqn: Any) -> Iterator[None]:
    """What is traced inside comes from where `eqn` comes from."""
    names = source_info_util.current_name_stack() + eqn.source_info.name_stack
    with source_info_util.user_context(eqn.source_info.traceback, name_stack=names), eqn.ctx.manager:
        yield


def evaluate(eqn: Any, operands: Sequence[Any]) -> list[Any]:
    """The results of an equation for these operands, literals included, at its place in the source."""
    parameters = eqn.primitive.get_bind_params(eqn.params)
    with at_source(eqn):
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


def scan_arguments(eqn: Any) -> tuple[int, int]:
    """How many of a scan's operands are constants, and how many are carried, which come next."""
    if "num_consts" in eqn.params:
        return eqn.params["num_consts"], eqn.params["num_carry"]
    # From JAX 0.12 on.
    constants, carried, _ = eqn.params["ft_in"].unpack()
    return len(constants), len(carried)
