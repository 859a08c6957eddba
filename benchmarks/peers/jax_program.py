"""What the two peers in JAX have in common."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from cases.case import Case, Family


def bind(program: Callable[..., Any], family: Family, case: Case) -> Callable[[], Any]:
    """A call of the program on the case's inputs that returns when its results are there."""
    import jax
    import jax.numpy as jnp

    jitted = program if hasattr(program, "lower") else jax.jit(program)
    inputs = [
        jnp.asarray(each.make(seed), None if each.high else each.dtype or case.dtype)
        for seed, each in enumerate(family.inputs(case))
    ]
    return lambda: jax.block_until_ready(jitted(*inputs))


def version(threads: int) -> str:
    import jax

    return f"jax {jax.__version__}"
