"""Arrays that functions close over become arguments, wherever a jaxpr holds them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from zenith_mlir.ir import lifted

W = jnp.asarray(np.random.default_rng(0).standard_normal((4, 4)), jnp.float32)
HOST = np.random.default_rng(1).standard_normal((4, 4)).astype(np.float32)
X = jnp.asarray(np.random.default_rng(2).standard_normal((3, 4)), jnp.float32)


@jax.jit
def inner(x: jax.Array) -> jax.Array:
    return jnp.tanh(x @ W)


@jax.jit
def outer(x: jax.Array) -> jax.Array:
    return inner(x) + inner(x @ HOST)


@jax.custom_jvp
def with_rule(x: jax.Array) -> jax.Array:
    return inner(x)


with_rule.defjvp(lambda primals, tangents: (with_rule(*primals), tangents[0]))


@jax.custom_vjp
def with_backward(x: jax.Array) -> jax.Array:
    return inner(x)


with_backward.defvjp(lambda x: (with_backward(x), None), lambda _, ct: (ct,))


def scan(x: jax.Array) -> Any:
    def step(carry: jax.Array, row: jax.Array) -> tuple[jax.Array, jax.Array]:
        return inner(carry) + row, inner(carry)[0]

    return jax.lax.scan(step, x, jnp.arange(5.0), reverse=True, unroll=2)


def while_loop(x: jax.Array) -> jax.Array:
    limit = 1 + x[0, 0] ** 2
    return jax.lax.while_loop(
        lambda c: (inner(c[0]).sum() < 100 * limit) & (c[1] < 4), lambda c: (inner(c[0]) * limit, c[1] + 1), (x, 0)
    )[0]


PROGRAMS: list[Callable[..., Any]] = [
    lambda x: x @ W,
    outer,
    with_rule,
    with_backward,
    jax.checkpoint(inner),
    scan,
    while_loop,
    lambda x: jax.lax.cond(x[0, 0] > 0, outer, lambda x: x @ HOST, x),
    lambda x: jax.lax.switch(1, [inner, outer, jnp.sin], x),
    lambda x: jax.vmap(lambda row: inner(row))(x),
]


@pytest.mark.parametrize("program", PROGRAMS)
def test_a_program_reads_its_arguments_and_no_array_that_it_held(program: Callable[..., Any]) -> None:
    closed = jax.make_jaxpr(program)(X)
    found = lifted.constants(closed, lambda array: array.size > 4)
    assert found and {lifted.identity(W), lifted.identity(HOST)} >= set(found)

    def run(arrays: list[jax.Array], x: jax.Array) -> list[jax.Array]:
        return lifted.evaluate(closed, dict(zip(found, arrays, strict=True)), x)

    again = jax.make_jaxpr(run)(list(found.values()), X)
    assert not lifted.constants(again, lambda array: array.size > 4)
    expected = jax.tree.leaves(program(X))
    for got, want in zip(run(list(found.values()), X), expected, strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-6, atol=1e-6)
    # The arrays are arguments indeed: others give other numbers.
    others = jax.tree.leaves(run([array * 0 for array in found.values()], X))
    assert not all(np.allclose(got, want) for got, want in zip(others, expected, strict=True))


def test_one_array_used_at_several_places_is_found_once() -> None:
    closed = jax.make_jaxpr(lambda x: outer(x) @ HOST + scan(x @ HOST)[0] @ W)(X)
    assert len(lifted.constants(closed, lambda array: array.size > 4)) == 2


def test_what_holds_none_of_them_stays_as_it_is() -> None:
    """Calls of jitted functions and loops are kept, with their names and the user's lines."""
    closed = jax.make_jaxpr(lambda x: jax.nn.relu(scan(x)[0] * 2) @ HOST)(X)
    key = lifted.identity(HOST)
    again = jax.make_jaxpr(lambda h, x: lifted.evaluate(closed, {key: h}, x))(HOST, X)
    assert [eqn.primitive.name for eqn in again.jaxpr.eqns] == [eqn.primitive.name for eqn in closed.jaxpr.eqns]
    text = jax.jit(lambda h, x: lifted.evaluate(closed, {key: h}, x)).lower(HOST, X).as_text(debug_info=True)
    assert "test_lifted.py" in text and "lifted.py:" not in text.replace("test_lifted.py", "")
