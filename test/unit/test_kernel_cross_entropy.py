"""The CPU kernels of cross-entropy and its gradient against the plain formula in float64."""

from __future__ import annotations

import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from kernel_judge import judge

from zenith_mlir.dialects import cross_entropy as dialect
from zenith_mlir.kernels.cpu.cross_entropy import Outside, cross_entropy_call, cross_entropy_vjp_call
from zenith_mlir.kernels.reference import cross_entropy as reference

pytestmark = pytest.mark.once

OPTIONS: list[dict[str, Any]] = [
    {},
    {"smoothing": 0.1},
    {"z_loss": 1e-3},
    {"smoothing": 0.2, "z_loss": 1e-2, "outside": Outside.ZERO},
    {"smoothing": 0.2, "z_loss": 1e-2, "outside": Outside.DROP},
    {"smoothing": 1.0},
]


def draw(shape: tuple[int, ...], dtype: str = "float32", seed: int = 0) -> np.ndarray:
    return np.random.default_rng([seed, *shape]).normal(0, 3, shape).astype(jnp.dtype(dtype))


def check(x: np.ndarray, labels: np.ndarray, **options: Any) -> None:
    """Loss and gradient, with residuals and without; each row's number is judged as a row of one."""
    found = cross_entropy_call(jnp.asarray(x), jnp.asarray(labels), **options)
    exact, naive = (reference.cross_entropy(x, labels, **options, dtype=t) for t in (np.float64, np.float32))
    judge(found.loss[..., None], exact[..., None], naive[..., None], "float32")
    g, h = draw(x.shape[:-1], seed=1), draw(x.shape[:-1], seed=2)
    operands = [jnp.asarray(a) for a in (x, labels, g, h)]
    (kept,) = cross_entropy_vjp_call(*operands, (found.maximum, found.sum), **options)
    made, loss = cross_entropy_vjp_call(*operands, loss=True, **options)
    np.testing.assert_array_equal(loss, found.loss)
    exact, naive = (reference.cross_entropy_vjp(x, labels, g, h, **options, dtype=t) for t in (np.float64, np.float32))
    for got in (kept, made):
        judge(got, exact, naive, x.dtype.name)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize("cols", [1, 5, 64, 131, 1000, 9001])
def test_numerics(cols: int, dtype: str) -> None:
    check(draw((6, cols), dtype), np.arange(6, dtype=np.int32) * 977 % cols)


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_numerics_of_options_and_labels_outside(options: dict[str, Any]) -> None:
    labels = np.array([[0, 299, 7], [-1, -300, -301], [300, 2**31 - 1, -(2**31)]], np.int32)
    check(draw((3, 3, 300)), labels, **options)


ROWS = {
    "equal": lambda n: np.full(n, 3.3),
    "one large": lambda n: np.where(np.arange(n) == n // 3, 1e4, 0.0),
    "large offset": lambda n: 3e4 + np.sin(np.arange(n)),
    "huge": lambda n: 1e17 * np.sin(np.arange(n)),
    "growing": lambda n: np.linspace(-300, 300, n),
    "falling": lambda n: np.linspace(300, -300, n),
    "-inf first": lambda n: np.where(np.arange(n) < n - 2, -np.inf, 1.0),
    "lowest": lambda n: np.full(n, np.finfo(np.float32).min) * (np.arange(n) % 2),
    "denormal": lambda n: np.full(n, 1e-40),
    "all -inf": lambda n: np.full(n, -np.inf),
    "+inf": lambda n: np.where(np.arange(n) == n // 2, np.inf, 1.0),
    "+inf last": lambda n: np.where(np.arange(n) == n - 1, np.inf, 1.0),
    "NaN": lambda n: np.where(np.arange(n) == n // 2, np.nan, 1.0),
    "NaN and +inf": lambda n: np.where(np.arange(n) == n // 2, np.nan, np.inf),
    "NaN and -inf": lambda n: np.where(np.arange(n) == n // 2, np.nan, -np.inf),
}


@pytest.mark.parametrize("cols", [5, 777, 9001])
def test_numerics_of_adversarial_rows(cols: int) -> None:
    x = np.stack([row(cols) for row in ROWS.values()]).astype(np.float32)
    check(x, np.full(len(x), cols - 1, np.int32))
    check(x, np.full(len(x), 1, np.int32), z_loss=1e-30)


@pytest.mark.parametrize("infinity", ["inf", "nan"])
@pytest.mark.parametrize("outside", ["fill", "zero", "drop"])
def test_special_values_are_those_of_jax(outside: str, infinity: str) -> None:
    x = jnp.asarray(np.stack([row(5) for row in ROWS.values()]), jnp.float32)
    kernel = {"outside": Outside[outside.upper()], "infinity_is_nan": infinity == "nan"}
    spec = dialect.CrossEntropySpec(outside=outside, infinity=infinity)

    @jax.jit
    def both(labels: jax.Array) -> Any:
        loss, pullback = jax.vjp(lambda x: dialect.loss(spec, x, labels), x)
        found, ones = cross_entropy_call(x, labels, **kernel), jnp.ones(len(x))
        gradient = cross_entropy_vjp_call(x, labels, ones, None, (found.maximum, found.sum), **kernel)
        return (loss, *pullback(ones)), (found.loss, *gradient)

    for label in (-6, -1, 0, 2, 4, 5):
        for right, got in zip(*both(jnp.full(len(x), label, jnp.int32)), strict=True):
            np.testing.assert_allclose(got, right, rtol=1e-3, atol=1e-6, err_msg=f"label {label}")


def test_labels_of_other_integer_types() -> None:
    x = jnp.asarray(draw((3, 300)))
    expected = cross_entropy_call(x, jnp.array([1, 2, 200], jnp.int32)).loss
    for dtype in (jnp.uint8, jnp.int16, jnp.uint32):
        np.testing.assert_array_equal(cross_entropy_call(x, jnp.array([1, 2, 200], dtype)).loss, expected)
    far = jnp.array([2**31, 2**32 - 1, 5], jnp.uint32)
    np.testing.assert_array_equal(np.isnan(cross_entropy_call(x, far).loss), [True, True, False])


@pytest.mark.parametrize("shape", [(0, 8), (8,), (2, 0, 8), (900, 129)])
def test_few_rows_and_many(shape: tuple[int, ...]) -> None:
    check(draw(shape), np.full(shape[:-1], 3, np.int32))


def test_bad_arguments_raise() -> None:
    x, labels, g = jnp.ones((2, 8)), jnp.zeros(2, jnp.int32), jnp.ones(2)
    for message, call in (
        ("logits is a scalar", lambda: cross_entropy_call(jnp.float32(1), jnp.int32(0))),
        ("logits has element type S32", lambda: cross_entropy_call(jnp.ones((2, 8), int), labels)),
        ("a row has no logits, expected at least one", lambda: cross_entropy_call(jnp.ones((2, 0)), labels)),
        ("labels has the shape [3], expected [2]", lambda: cross_entropy_call(x, jnp.zeros(3, jnp.int32))),
        ("outside is 7, expected 0 (fill), 1 (zero) or 2 (drop)", lambda: cross_entropy_call(x, labels, outside=7)),
        ("cotangent has the shape [2,1]", lambda: cross_entropy_vjp_call(x, labels, g[:, None])),
        (
            "cotangent has element type BF16, expected f32",
            lambda: cross_entropy_vjp_call(x, labels, g.astype("bfloat16")),
        ),
        ("sum has the shape [3]", lambda: cross_entropy_vjp_call(x, labels, g, None, (g, jnp.ones(3)))),
        ("expected no such operands", lambda: cross_entropy_vjp_call(x, labels, g, None, (g, g), loss=True)),
    ):
        with pytest.raises(jax.errors.JaxRuntimeError, match=re.escape(message)):
            jax.block_until_ready(call())
