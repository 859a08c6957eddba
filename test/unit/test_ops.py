"""zenith.ops: values, derivatives of every kind and vmap against plain JAX in float64; dtypes; composites."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads
from ops_cases import CASES, Case, W, X, array, little_optimised, ops


@pytest.fixture(autouse=True)
def _float64() -> Iterator[None]:
    with little_optimised(), jax.enable_x64(True):
        yield


def assert_same(got: Any, want: Any) -> None:
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-8, atol=1e-10), got, want)


def derivatives(function: Callable[..., Any], x: tuple[Any, ...], d: tuple[Any, ...]) -> dict[str, Any]:
    """Of the first and the second order, along d; the last under jax.checkpoint."""

    def loss(*x: Any) -> Any:
        return sum(jnp.sin(leaf).sum() for leaf in jax.tree.leaves(function(*x)))

    def along(gradients: Any) -> Any:
        return sum((g * v).sum() for g, v in zip(gradients, d, strict=True))

    every = tuple(range(len(x)))
    gradient = jax.grad(loss, every)
    return {
        "value": function(*x),
        "jvp": jax.jvp(function, x, d)[1],
        "grad": gradient(*x),
        "forward over reverse": jax.jvp(gradient, x, d)[1],
        "reverse over reverse": jax.grad(lambda *x: along(jax.grad(jax.checkpoint(loss), every)(*x)), every)(*x),
    }


@pytest.mark.parametrize("case", CASES, ids=str)
def test_derivatives_of_all_kinds(case: Case) -> None:
    x, d = case.moved(), tuple(array(*x.shape, seed=7) for x in case.moved())
    both = jax.jit(lambda x: [derivatives(case.of_moving(f), x, d) for f in (case.call, case.plain)])(x)
    for name, value in both[0].items():
        try:
            assert_same(value, both[1][name])
        except AssertionError as error:
            raise AssertionError(name) from error


@pytest.mark.parametrize("op", ["softmax"])
def test_numerical_derivatives(op: str) -> None:
    """Also forward over forward, and reverse over that."""
    case = next(case for case in CASES if case.op == op)
    check_grads(jax.jit(case.of_moving(case.call)), case.moved(), 2, ["fwd", "rev"], 1e-5, 1e-5)


@pytest.mark.parametrize("case", {case.op: case for case in CASES}.values(), ids=str)
def test_eager_is_jit(case: Case) -> None:
    assert_same(case.call(*case.operands), jax.jit(case.call)(*case.operands))


@pytest.mark.parametrize("case", CASES, ids=str)
def test_vmap_is_a_loop(case: Case) -> None:
    """All operands mapped, each along another axis, and the first alone; products and tables also without it. So are
    the gradients.
    """
    many = len(case.operands)
    axes = [min(i, x.ndim) for i, x in enumerate(case.operands)]
    stacked = [np.stack([x, np.roll(x, 1)], axis) for x, axis in zip(case.operands, axes, strict=True)]

    def gradients(*operands: Any) -> Any:
        """Of each operand, as an example of its own."""
        at = [operands[i] for i in case.moving]

        def loss(at: Any) -> Any:
            function = case.of_moving(case.call, operands)
            return sum(jnp.sin(leaf).sum() for leaf in jax.tree.leaves(function(*at)))

        return case.call(*operands), jax.grad(loss)(at)

    def all_ways(stacked: Any) -> Any:
        for mapped in [range(many), range(1), *([range(1, many)] if case.op in ("matmul", "rotary") else [])]:
            dims = [axes[i] if i in mapped else None for i in range(many)]
            operands = [stacked[i] if i in mapped else case.operands[i] for i in range(many)]
            rows = [
                [x if dim is None else jnp.take(x, n, axis=dim) for x, dim in zip(operands, dims, strict=True)]
                for n in range(2)
            ]
            loop = jax.tree.map(lambda *leaves: jnp.stack(leaves), *(gradients(*row) for row in rows))
            yield jax.vmap(gradients, dims)(*operands), loop

    for got, want in jax.jit(lambda stacked: list(all_ways(stacked)))(stacked):
        assert_same(got, want)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_program_has_composites(case: Case) -> None:
    """Also under vmap, where a kernel takes the axis; the gradient is a composite of its own."""

    def loss(*operands: Any) -> Any:
        return sum(jnp.sin(leaf).sum() for leaf in jax.tree.leaves(case.call(*operands)))

    gradient = {"vjp": f"zenith.{case.op}_vjp", "matmul": "zenith.matmul"}[case.gradient]
    text = jax.jit(jax.grad(loss)).lower(*case.operands).as_text()
    assert composites(text)[0] == f"zenith.{case.op}"
    assert gradient in composites(text)[1:]
    mapped = [0, *[None] * (len(case.operands) - 1)]
    if case.op == "swiglu" and case.variant == "bias":
        mapped[1] = 0
    wide = [np.stack([x, x]) if dim == 0 else x for x, dim in zip(case.operands, mapped, strict=True)]
    assert composites(jax.jit(jax.vmap(case.call, mapped)).lower(*wide).as_text()) == [f"zenith.{case.op}"]


def composites(text: str) -> list[str]:
    return re.findall(r'stablehlo.composite "([^"]+)"', text)


def test_weights_that_are_mapped_leave_the_formula() -> None:
    text = jax.jit(jax.vmap(ops.layer_norm)).lower(X[None], W[None]).as_text()
    assert composites(text) == []


def test_hessian() -> None:
    def loss(function: Any) -> Any:
        return lambda x: jnp.sin(function(x)).sum()

    assert_same(*jax.jit(lambda x: [jax.hessian(loss(f))(x) for f in (ops.softmax, jax.nn.softmax)])(X))


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float32])
def test_dtypes(dtype: Any) -> None:
    """Results have the dtype that they say, and so have gradients."""
    for case in CASES:
        operands = [x.astype(dtype) if x.dtype == np.float64 else x for x in map(jnp.asarray, case.operands)]
        expected = jnp.float32 if case.op == "cross_entropy" else dtype
        found = jax.eval_shape(case.call, *operands)
        assert {leaf.dtype for leaf in jax.tree.leaves(found)} == {jnp.dtype(expected)}

        def loss(*operands: Any, case: Case = case) -> Any:
            return sum(leaf.astype(jnp.float32).sum() for leaf in jax.tree.leaves(case.call(*operands)))

        gradients = jax.eval_shape(jax.grad(loss, case.moving), *operands)
        assert [(g.shape, g.dtype) for g in gradients] == [(operands[i].shape, dtype) for i in case.moving]
