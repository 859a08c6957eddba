"""The CPU kernels of softmax and log-softmax against the plain formula in float64."""

from __future__ import annotations

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from kernel_judge import judge

from zenith_mlir.kernels.cpu.softmax import softmax_call, softmax_vjp_call
from zenith_mlir.kernels.reference import softmax as reference

pytestmark = pytest.mark.once


def draw(shape: tuple[int, ...], dtype: str = "float32", seed: int = 0) -> np.ndarray:
    return np.random.default_rng([seed, *shape]).normal(0, 3, shape).astype(jnp.dtype(dtype))


def check(x: np.ndarray, log: bool, scale: float = 1.0, out: str | None = None) -> np.ndarray:
    """The forward; returns its result."""
    dtype = x.dtype.name if out is None else out
    got = softmax_call(jnp.asarray(x), log=log, scale=scale, out_dtype=dtype)
    exact, naive = (reference.softmax(x, log=log, scale=scale, dtype=t) for t in (np.float64, np.float32))
    judge(got, exact, naive, dtype)
    return np.asarray(got)


def check_vjp(y: np.ndarray, dy: np.ndarray, log: bool, scale: float = 1.0, out: str | None = None) -> None:
    dtype = y.dtype.name if out is None else out
    got = softmax_vjp_call(jnp.asarray(y), jnp.asarray(dy), log=log, scale=scale, dx_dtype=dtype)
    exact, naive = (reference.softmax_vjp(y, dy, log=log, scale=scale, dtype=t) for t in (np.float64, np.float32))
    judge(got, exact, naive, dtype)


@pytest.mark.parametrize("log", [False, True])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize("cols", [1, 5, 64, 131, 768, 9001])
def test_numerics(cols: int, dtype: str, log: bool) -> None:
    y = check(draw((5, cols), dtype), log)
    check_vjp(y, 1 + draw((5, cols), dtype, 1), log)  # with a sum that rounding is small against


@pytest.mark.parametrize("log", [False, True])
@pytest.mark.parametrize("scale", [0.125, -2.0, 0.0])
def test_numerics_of_scales_and_types(scale: float, log: bool) -> None:
    x = draw((2, 3, 200), "bfloat16")
    y = check(x, log, scale, "float32")
    check(x.astype(np.float32), log, scale, "float16")
    check_vjp(y, draw((2, 3, 200), "float16", 1), log, scale, "bfloat16")


ROWS = {
    "equal": lambda n: np.full(n, 3.3),
    "one large": lambda n: np.where(np.arange(n) == n // 3, 1e6, 0.0),
    "large offset": lambda n: 3e4 + np.sin(np.arange(n)),
    "huge": lambda n: 1e30 * np.sin(np.arange(n)),
    "far apart": lambda n: np.linspace(-200, 0, n),
    "lowest": lambda n: np.full(n, np.finfo(np.float32).min),
    "denormal": lambda n: np.full(n, 1e-40),
    "infinities": lambda n: np.where(np.arange(n) < n // 2, -np.inf, 1.0),
    "all -inf": lambda n: np.full(n, -np.inf),
    "+inf": lambda n: np.where(np.arange(n) == n - 1, np.inf, 1.0),
    "NaN": lambda n: np.where(np.arange(n) == n - 1, np.nan, 1.0),
    "NaN first": lambda n: np.where(np.arange(n) == 0, np.nan, -np.inf),
}


@pytest.mark.parametrize("log", [False, True])
@pytest.mark.parametrize("cols", [3, 777])
def test_numerics_of_adversarial_rows(cols: int, log: bool) -> None:
    x = np.stack([row(cols) for row in ROWS.values()]).astype(np.float32)
    got = check(x, log)
    jaxs = np.asarray((jax.nn.log_softmax if log else jax.nn.softmax)(jnp.asarray(x)))
    np.testing.assert_array_equal(np.isnan(got), np.isnan(jaxs))
    check(x, log, 0.3)
    check_vjp(got, draw(x.shape, seed=1), log)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("log", [False, True])
def test_cotangents_that_are_not_finite(value: float, log: bool) -> None:
    y, dy = np.array(check(draw((3, 40)), log)), draw((3, 40), seed=1)
    dy[1, 5] = value
    check_vjp(y, dy, log)


@pytest.mark.parametrize("shape", [(0, 8), (3, 0), (8,), (1, 1), (700, 129)])
def test_few_rows_and_many(shape: tuple[int, ...]) -> None:
    check_vjp(check(draw(shape), False), draw(shape, seed=1), False)


def test_bad_arguments_raise() -> None:
    x = jnp.ones((2, 8))
    for message, call in (
        ("x is a scalar", lambda: softmax_call(jnp.float32(1))),
        ("x has element type S32, expected f32, bf16 or f16", lambda: softmax_call(jnp.ones((2, 8), int))),
        ("y has element type PRED", lambda: softmax_call(x, out_dtype=bool)),
        ("cotangent has the shape [8,2], expected [2,8]", lambda: softmax_vjp_call(x, x.T)),
        ("dx has element type S32", lambda: softmax_vjp_call(x, x, dx_dtype="int32")),
    ):
        with pytest.raises(jax.errors.JaxRuntimeError, match=re.escape(message)):
            jax.block_until_ready(call())
