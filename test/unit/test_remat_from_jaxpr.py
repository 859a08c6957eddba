"""Problems of rematerialization made of JAX functions."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.ad_checkpoint import checkpoint_name

from zenith_mlir.remat.flat_jaxpr import flatten, nbytes
from zenith_mlir.remat.from_jaxpr import TracedProblem, problem_of, problem_of_vjp
from zenith_mlir.remat.rates import RATES, Rates, flops

F32 = jnp.float32


def shape(*dims: int, dtype: Any = F32) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(dims, dtype)


def node(traced: TracedProblem, name: str) -> int:
    """The one node of this primitive."""
    (i,) = (i for i, equation in enumerate(traced.nodes) if equation.name == name)
    return i


def test_a_layer():
    def layer(w: jax.Array, x: jax.Array) -> jax.Array:
        return jnp.sum(jnp.sin(x @ w))

    traced = problem_of_vjp(layer, shape(8, 4), shape(16, 8))
    problem = traced.problem
    product, cosine = node(traced, "dot_general"), node(traced, "cos")
    assert problem.bytes[product] == 16 * 4 * 4
    assert problem.operands[cosine] == [product]
    # The backward needs the cosine and nothing else: weights and inputs are there anyway.
    assert problem.needed.tolist() == [cosine]
    assert problem.residual_bytes == 16 * 4 * 4
    # The sum is returned: its room is not counted.
    assert problem.bytes[node(traced, "reduce_sum")] == 0
    assert problem.names[product].startswith("dot_general float32[16,4]")


def test_views_are_their_source():
    def f(x: jax.Array) -> jax.Array:
        wide = jnp.broadcast_to(jnp.exp(x).reshape(4, 1, 2).transpose(1, 2, 0), (3, 2, 4))
        return jnp.sum(wide * wide)

    traced = problem_of_vjp(f, shape(8))
    exponential = node(traced, "exp")
    assert traced.problem.bytes[exponential] == 8 * 4
    assert traced.problem.operands[node(traced, "mul")] == [exponential]
    assert not {"reshape", "transpose", "broadcast_in_dim"} & {equation.name for equation in traced.nodes}


def test_fusion():
    def f(x: jax.Array, w: jax.Array) -> jax.Array:
        shifted = x + 1.0
        wide = jnp.tanh(shifted)
        return jnp.sum((wide * 2.0) @ w)

    traced = problem_of_vjp(f, shape(8, 8), shape(8, 8))
    problem = traced.problem
    # Into the one user that is elementwise; not into a product; and what is dear not into several.
    assert problem.transient[node(traced, "add")] == 0
    assert problem.transient[node(traced, "mul")] == 8 * 8 * 4
    assert problem.transient[node(traced, "tanh")] == 8 * 8 * 4


def test_calls_are_inlined_and_dead_equations_gone():
    def f(x: jax.Array) -> jax.Array:
        jnp.cos(x)
        return jnp.sum(jax.jit(jax.nn.relu)(jax.checkpoint(jnp.sin)(x)))

    names = [equation.name for equation in flatten(jax.make_jaxpr(f)(shape(4))).equations]
    assert names == ["sin", "max", "reduce_sum"]


def test_loops_are_nodes():
    def f(x: jax.Array, w: jax.Array) -> jax.Array:
        return jnp.sum(jax.lax.scan(lambda c, _: (jnp.tanh(c @ w), None), x, length=5)[0])

    traced = problem_of_vjp(f, shape(4, 8), shape(8, 8))
    loop = node(traced, "scan")
    # Each of five carries is kept, as is what the derivative of tanh needs.
    assert traced.problem.bytes[loop] >= 2 * 5 * 4 * 8 * 4
    once = RATES["cpu"].seconds(traced.nodes[loop]) / 5
    assert once >= 2 * 4 * 8 * 8 / RATES["cpu"].products


def test_random_bits_run_once():
    def f(x: jax.Array, key: jax.Array) -> jax.Array:
        return jnp.sum(jnp.where(jax.random.bernoulli(key, 0.5, x.shape), jnp.sin(x), 0.0))

    args = shape(16), jax.eval_shape(lambda: jax.random.key(0))
    traced = problem_of_vjp(f, *args)
    assert [e.name for e, again in zip(traced.nodes, traced.problem.repeatable, strict=True) if not again] == [
        "random_bits"
    ]
    assert problem_of_vjp(f, *args, repeat_random=True).problem.repeatable.all()


def test_effects_run_once():
    def f(x: jax.Array) -> jax.Array:
        y = jnp.sin(x)
        jax.debug.callback(lambda value: None, y)
        return jnp.sum(y)

    traced = problem_of_vjp(f, shape(4))
    assert [equation.has_effects for equation in traced.nodes] == (~traced.problem.repeatable).tolist()
    assert not traced.problem.repeatable.all()


def test_names_lead_to_nodes():
    def f(x: jax.Array) -> jax.Array:
        return jnp.sum(jnp.sin(checkpoint_name(jnp.exp(x), "here")))

    traced = problem_of_vjp(f, shape(4))
    assert traced.named == {"here": node(traced, "exp")}


def test_integers_have_no_cotangent():
    def f(table: jax.Array, rows: jax.Array) -> tuple[jax.Array, jax.Array]:
        return jnp.sum(jnp.sin(table[rows])), rows + 1

    assert node(problem_of_vjp(f, shape(9, 4), shape(3, dtype=jnp.int32)), "cos") >= 0


def test_what_the_backward_computes_of_weights_is_no_node():
    """A convolution's gradient turns the weights around, whatever is kept."""

    def f(x: jax.Array, w: jax.Array) -> jax.Array:
        return jnp.sum(jnp.tanh(jax.lax.conv(jnp.sin(x), w, (1, 1), "SAME")))

    traced = problem_of_vjp(f, shape(1, 2, 4, 4), shape(2, 2, 3, 3))
    assert "rev" not in {equation.name for equation in traced.nodes}
    convolution = traced.nodes[node(traced, "conv_general_dilated")]
    assert flops(convolution) == 2 * (1 * 2 * 4 * 4) * (2 * 3 * 3)


def test_live_bytes_of_the_backward():
    def f(x: jax.Array, w: jax.Array) -> jax.Array:
        return jnp.sum(jnp.tanh(x @ w) @ w)

    problem = problem_of_vjp(f, shape(16, 8), shape(8, 8)).problem
    # At the least the cotangent of tanh's result, at most a few of its size.
    assert 16 * 8 * 4 <= problem.backward_base.max() <= 4 * 16 * 8 * 4


def test_cotangents_may_be_anywhere():
    def step(x: jax.Array, seed: jax.Array) -> tuple[jax.Array, jax.Array]:
        y, pullback = jax.vjp(lambda x: jnp.sum(jnp.sin(x) ** 2), x)
        return y, pullback(seed)[0]

    traced = problem_of(jax.make_jaxpr(step)(shape(4), shape()), [1])
    assert {equation.name for equation in traced.steps} == {"mul"}
    assert traced.problem.steps == 2


@pytest.mark.once
def test_rates():
    product = flatten(jax.make_jaxpr(lambda a, b: jnp.einsum("bij,bjk->bik", a, b))(shape(2, 3, 4), shape(2, 4, 5)))
    (equation,) = (e for e in product.equations if e.name == "dot_general")
    assert flops(equation) == 2 * 2 * 3 * 4 * 5
    moved = 4 * (2 * 3 * 4 + 2 * 4 * 5 + 2 * 3 * 5)
    assert Rates(1, 1, 1e9, 1).seconds(equation) == 240
    assert Rates(1e9, 1e9, 1, 1).seconds(equation) == moved
    assert Rates(1, 1, 1, 1, host_bandwidth=4).offload_seconds(8) == 4
    assert RATES["cpu"].offload_seconds(8) == np.inf
    assert nbytes(jax.typeof(jax.random.key(0))) == 8
