"""The CPU kernels of LayerNorm and RMSNorm against the plain formula in float64."""

from __future__ import annotations

import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from kernel_judge import judge

from zenith_mlir.kernels.cpu.norm import norm_call, norm_vjp_call
from zenith_mlir.kernels.reference import norm as reference

pytestmark = pytest.mark.once

EPSILON = 1e-5
TYPES = ["float32", "bfloat16", "float16"]


def draw(shape: tuple[int, ...], dtype: str = "float32", seed: int = 0, mean: float = 0.5) -> np.ndarray:
    normal = np.random.default_rng([seed, *shape]).normal(mean, 2.0, shape)
    return normal.astype(jnp.dtype(dtype))


def check(
    x: np.ndarray,
    weight: np.ndarray | None = None,
    bias: np.ndarray | None = None,
    residual: np.ndarray | None = None,
    *,
    centred: bool = True,
    epsilon: float = EPSILON,
    offset: float = 0.0,
    out: str | None = None,
) -> None:
    """The forward."""
    options: dict[str, Any] = {"centred": centred, "epsilon": epsilon, "offset": offset}
    dtype = x.dtype if out is None else jnp.dtype(out)
    results = norm_call(
        *[None if a is None else jnp.asarray(a) for a in (x, weight, bias, residual)], **options, out_dtype=dtype
    )
    s = x
    if residual is not None:
        s = (x.astype(np.float32) + residual.astype(np.float32)).astype(x.dtype)
        np.testing.assert_array_equal(np.asarray(results[1]), s)
    exact, naive = (reference.norm(s, weight, bias, **options, dtype=t) for t in (np.float64, np.float32))
    judge(results[0], exact, naive, dtype.name)


def check_vjp(
    s: np.ndarray,
    cotangent: np.ndarray,
    weight: np.ndarray | None = None,
    sum_cotangent: np.ndarray | None = None,
    *,
    centred: bool = True,
    epsilon: float = EPSILON,
    offset: float = 0.0,
    narrow: str = "float32",
) -> None:
    """The gradients; those of weight and bias in `narrow`."""
    operands = (s, cotangent, weight, sum_cotangent)
    options: dict[str, Any] = {"centred": centred, "epsilon": epsilon, "offset": offset}
    arrays = [None if a is None else jnp.asarray(a) for a in operands]
    results = norm_vjp_call(*arrays, **options, dweight_dtype=narrow, dbias_dtype=narrow)
    exact, naive = (reference.norm_vjp(*operands, **options, dtype=t) for t in (np.float64, np.float32))
    for got, right, plain, dtype in zip(results, exact, naive, (s.dtype.name, narrow, narrow), strict=True):
        judge(got, right, plain, dtype)


# Numerics


@pytest.mark.parametrize("centred", [True, False])
@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("cols", [1, 7, 64, 131, 768, 4096 + 37])
def test_numerics(cols: int, dtype: str, centred: bool) -> None:
    x, w, b = draw((5, cols), dtype), draw((cols,), dtype, 1), draw((cols,), "float32", 2)
    check(x, w, b, centred=centred)
    check_vjp(x, draw((5, cols), dtype, 3), w, centred=centred)


@pytest.mark.parametrize("centred", [True, False])
def test_numerics_of_each_part(centred: bool) -> None:
    x, w, b, r = draw((2, 3, 300)), draw((300,), "bfloat16", 1), draw((300,), "float16", 2), draw((2, 3, 300), seed=3)
    check(x, centred=centred)
    check(x, w, centred=centred, offset=1.0)
    check(x, None, b, centred=centred)
    check(x, None, b, r, centred=centred, out="bfloat16")
    check(x, w, None, r.astype(np.float16), centred=centred, epsilon=0.1)
    check(x.astype(jnp.bfloat16), w, b, r.astype(jnp.bfloat16), centred=centred, offset=1.0, out="float32")
    dy = draw((2, 3, 300), "bfloat16", 4)
    check_vjp(x, dy, centred=centred)
    check_vjp(x, dy, w, r, centred=centred, offset=1.0, narrow="bfloat16")
    check_vjp(x.astype(np.float16), dy, w, r.astype(jnp.bfloat16), centred=centred, narrow="float16")


ROWS = {
    "constant": lambda n: np.full(n, 3.3),
    "zero": lambda n: np.zeros(n),
    "one large": lambda n: np.where(np.arange(n) == n // 3, 1e6, np.linspace(-1, 1, n)),
    "large offset": lambda n: 3e4 + np.sin(np.arange(n)),
    "offset and block": lambda n: 1e3 * (np.arange(n) // 4096) + np.cos(np.arange(n)),
    "denormal": lambda n: np.full(n, 1e-40) * (np.arange(n) % 2),
    "tiny": lambda n: 1e-18 * np.sin(np.arange(n)),
    "huge": lambda n: 1e16 * np.sin(np.arange(n)),
    "overflowing": lambda n: 1e25 * np.sin(1 + np.arange(n)),
}


@pytest.mark.parametrize("centred", [True, False])
@pytest.mark.parametrize("cols", [777, 9001])
def test_numerics_of_adversarial_rows(cols: int, centred: bool) -> None:
    x = np.stack([row(cols) for row in ROWS.values()]).astype(np.float32)
    w, b = draw((cols,), seed=1), draw((cols,), seed=2)
    check(x, w, b, centred=centred)
    for row in x[:-1]:  # alone: what one row adds to dweight would hide what another does
        check_vjp(row[None], draw((1, cols), seed=3), w, centred=centred)


def test_a_large_mean_costs_no_digits() -> None:
    """Of 1e6 + sin, float32 keeps four digits; of these the mean and the variance lose none."""
    x = (1e6 + 4 * np.sin(np.arange(3000))).astype(np.float32)[None]
    (out,) = norm_call(jnp.asarray(x), centred=True, epsilon=EPSILON)
    np.testing.assert_allclose(out, reference.norm(x, centred=True, epsilon=EPSILON), atol=2e-6)


@pytest.mark.parametrize("rows", [1, 15, 16, 17, 1500])
def test_sums_over_many_rows(rows: int) -> None:
    check_vjp(draw((rows, 70)), draw((rows, 70), seed=1, mean=30.0), draw((70,), seed=2))


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("centred", [True, False])
def test_values_that_are_not_finite(value: float, centred: bool) -> None:
    for operand in range(4):
        arrays = [draw((4, 50)), draw((50,), seed=1), draw((50,), seed=2), draw((4, 50), seed=3)]
        arrays[operand][..., 17] = value
        x, w, b, r = arrays
        check(x, w, b, r, centred=centred)
        check_vjp(x, r, w, centred=centred)
    one = draw((4, 50))
    one[2, 3] = value
    check(one, centred=centred)


@pytest.mark.parametrize("shape", [(0, 8), (3, 0, 8), (3, 0), (0, 0), (8,), (1, 1)])
def test_few_rows_and_none(shape: tuple[int, ...]) -> None:
    x = draw(shape)
    (out,) = norm_call(jnp.asarray(x), jnp.ones(shape[-1]), centred=True, epsilon=EPSILON)
    assert out.shape == shape
    results = norm_vjp_call(
        jnp.asarray(x), jnp.asarray(x), centred=True, epsilon=EPSILON, dweight_dtype="float32", dbias_dtype="float32"
    )
    assert [r.shape for r in results] == [shape, shape[-1:], shape[-1:]]
    if x.size == 0:
        assert not any(np.asarray(r).any() for r in results)
    else:
        check(x), check_vjp(x, x)


# Threads


def test_gradients_do_not_depend_on_the_number_of_threads() -> None:
    """A call from inside a busy pool gets fewer threads; the chunks are the same."""
    s, dy = jnp.asarray(draw((700, 300))), jnp.asarray(draw((700, 300), seed=1))

    def gradients(s: jax.Array) -> jax.Array:
        _, dweight, dbias = norm_vjp_call(
            s, dy, centred=True, epsilon=EPSILON, dweight_dtype="float32", dbias_dtype="float32"
        )
        return jnp.stack([dweight, dbias])

    alone = np.asarray(gradients(s))
    together = np.asarray(jax.jit(lambda s: jnp.stack([gradients(s + 0.0 * i) for i in range(6)]))(s))
    for result in together:
        np.testing.assert_array_equal(result, alone)


# Refusals


def failing(message: str, call: Any) -> None:
    with pytest.raises(jax.errors.JaxRuntimeError, match=re.escape(message)):
        jax.block_until_ready(call())


def test_bad_arguments_raise() -> None:
    x, n = jnp.ones((2, 8)), {"centred": True, "epsilon": EPSILON}
    failing("weight has the shape [7], expected [8] (the last axis", lambda: norm_call(x, jnp.ones(7), **n))
    failing("weight has the shape [1,8], expected [8]", lambda: norm_call(x, jnp.ones((1, 8)), **n))
    failing("bias has element type S32", lambda: norm_call(x, None, jnp.ones(8, int), **n))
    failing("residual has the shape [2,9], expected [2,8]", lambda: norm_call(x, None, None, jnp.ones((2, 9)), **n))
    failing("x is a scalar", lambda: norm_call(jnp.float32(1), **n))
    failing("x has element type S32, expected f32, bf16 or f16", lambda: norm_call(jnp.ones((2, 8), int), **n))
    failing("out has element type PRED", lambda: norm_call(x, **n, out_dtype=bool))
    failing("cotangent has the shape [8,2], expected [2,8]", lambda: norm_vjp_call(x, x.T, **n))
    failing("dweight has element type S32", lambda: norm_vjp_call(x, x, **n, dweight_dtype="int32"))
    failing("sum_cotangent has the shape [2]", lambda: norm_vjp_call(x, x, None, x[:, 0], **n))


def test_operands_and_results_are_counted() -> None:
    flags = dict.fromkeys(("residual", "weight", "bias"), False)
    numbers = {"centred": True, "epsilon": np.float32(1), "offset": np.float32(0)}
    x = jnp.ones((2, 8))
    call = jax.ffi.ffi_call("zenith_norm", [x])
    failing("zenith_norm: the operand weight is missing", lambda: call(x, **numbers, **flags | {"weight": True}))
    failing("zenith_norm: there are 1 operands too many", lambda: call(x, x, **numbers, **flags))
    failing("zenith_norm: the result sum is missing", lambda: call(x, x, **numbers, **flags | {"residual": True}))


def test_gradient_of_a_large_constant_row() -> None:
    x = np.full((2, 5), 2e36, np.float32)  # mean / sqrt(epsilon) is beyond float32
    (dx,) = norm_vjp_call(jnp.asarray(x), jnp.asarray(x * 0 + [1, 2, 3, 4, 5], jnp.float32), centred=True, epsilon=1e-5)
    np.testing.assert_allclose(dx[0], np.arange(-2, 3) / np.sqrt(1e-5), rtol=1e-5)
