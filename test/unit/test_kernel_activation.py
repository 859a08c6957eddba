"""The CPU activation kernels, alone and gated, and their gradients against the plain formula in float64.

A kernel may be at most twice as far from float64 as the plain formula in float32 is, plus a few units in the last
place, and has NaN and infinities exactly where that has them.
"""

import threading
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from zenith_mlir.kernels.cpu.activation import Kind, activation_call, activation_vjp_call
from zenith_mlir.kernels.cpu.swiglu import Columns, swiglu_call, swiglu_vjp_call
from zenith_mlir.kernels.reference.activation import activation, derivative

pytestmark = [pytest.mark.once, pytest.mark.filterwarnings("ignore::RuntimeWarning")]

DTYPES = ["float32", "bfloat16", "float16"]
F32, F64 = np.float32, np.float64


def draw(*shape: int, dtype: Any = "float32", seed: int = 0, scale: float = 3.0) -> np.ndarray:
    return (np.random.default_rng(seed).normal(size=shape) * scale).astype(jnp.dtype(dtype))


def judge(got: Any, exact: np.ndarray, naive: np.ndarray, terms: float = 1.0) -> None:
    """`exact` is the formula in float64, `naive` in float32; `terms` is the size of what may cancel in it."""
    got = np.asarray(got)
    rounding = 0.0 if got.dtype == F32 else float(jnp.finfo(got.dtype).eps) / 2
    largest = float(jnp.finfo(got.dtype).max)
    got, naive = got.astype(F64), naive.astype(F64)
    assert got.shape == exact.shape
    np.testing.assert_array_equal(np.isnan(got), np.isnan(naive))
    finite = np.abs(naive) < largest
    np.testing.assert_array_equal(got[~finite & ~np.isnan(naive)], np.sign(naive[~finite & ~np.isnan(naive)]) * np.inf)
    if not finite.any():
        return
    error = np.abs(got - exact)[finite] - rounding * np.abs(exact[finite])
    smallest = 2.0**-25 if rounding > 2**-9 or rounding == 0 else 2.0**-24
    bound = 2 * np.abs(naive - exact)[finite] + 8 * 2**-24 * np.abs(exact[finite]) + 4 * 2**-24 * terms + smallest
    assert (error <= bound).all(), f"error {(error - bound).max()} too large"


def wide(x: Any, dtype: Any) -> np.ndarray:
    return np.asarray(x).astype(dtype)


def forward(kind: Kind, x: Any, bias: Any, slope: float, dtype: Any) -> np.ndarray:
    return activation(kind, wide(x, dtype) + (0 if bias is None else wide(bias, dtype)), slope, dtype)


def check(kind: Kind, x: Any, bias: Any = None, slope: float = 1.0, dtype: Any = None) -> None:
    got = jax.jit(lambda x, bias: activation_call(x, bias, kind=kind, slope=slope, dtype=dtype))(x, bias)
    assert got.dtype == jnp.dtype(dtype or x.dtype)
    judge(got, forward(kind, x, bias, slope, F64), forward(kind, x, bias, slope, F32))


def check_vjp(kind: Kind, x: Any, g: Any, bias: Any = None, slope: float = 1.0, dtype: Any = None) -> None:
    got = jax.jit(lambda x, g, bias: activation_vjp_call(x, g, bias, kind=kind, slope=slope, dtype=dtype))(x, g, bias)

    def plain(dtype: Any) -> np.ndarray:
        total = wide(x, dtype) + (0 if bias is None else wide(bias, dtype))
        with np.errstate(all="ignore"):
            return wide(g, dtype) * derivative(kind, total, slope, dtype)

    judge(got, plain(F64), plain(F32))


# The mathematics


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kind", Kind)
def test_values_and_gradients(kind: Kind, dtype: str) -> None:
    x, g = draw(37, 129, dtype=dtype), draw(37, 129, dtype=dtype, seed=1, scale=1)
    check(kind, x)
    check_vjp(kind, x, g)


@pytest.mark.parametrize("kind", [Kind.SILU, Kind.SIGMOID])
@pytest.mark.parametrize("slope", [1.702, 0.0, -2.0])
def test_slopes(kind: Kind, slope: float) -> None:
    check(kind, draw(9, 40), slope=slope)
    check_vjp(kind, draw(9, 40), draw(9, 40, seed=1), slope=slope)


@pytest.mark.parametrize("kind", Kind)
def test_all_bfloat16_and_special_values(kind: Kind) -> None:
    """Gradients at huge arguments are left out where the plain formula overflows on the way: x² of 2e19 is inf."""
    x = np.arange(2**16, dtype=np.uint16).view(jnp.bfloat16).astype(F32)
    x = np.where(np.abs(x) < 2.0**-126, 0, x)  # XLA's threads flush subnormal numbers
    check(kind, x)
    with np.errstate(invalid="ignore"):
        small = x[(np.abs(x) < 1e12) | ~np.isfinite(x)]
    check_vjp(kind, small, np.ones_like(small))


@pytest.mark.parametrize(
    ("kind", "x", "expected"),
    [
        (Kind.GELU, -10.0, -7.619853024160525e-23),
        (Kind.GELU_TANH, -5.0, -5.0 / (1 + np.exp(1.5957691216057308 * 5 * (1 + 0.044715 * 25)))),
        (Kind.SILU, -80.0, -80 * np.exp(-80.0)),
    ],
)
def test_tails_keep_their_relative_accuracy(kind: Kind, x: float, expected: float) -> None:
    got = activation_call(jnp.full(40, x, F32), kind=kind)
    np.testing.assert_allclose(got, expected, rtol=1e-5)


# Shapes, biases, element types


@pytest.mark.parametrize(
    "shape", [(0,), (1,), (7,), (16,), (3, 0), (0, 5), (2, 3, 17), (1, 1, 1), (700, 100), (2, 40000)]
)
def test_shapes(shape: tuple[int, ...]) -> None:
    check(Kind.GELU, draw(*shape))
    check(Kind.SILU, draw(*shape, dtype="bfloat16"), draw(shape[-1], seed=2))
    check_vjp(Kind.GELU, draw(*shape), draw(*shape, seed=1), draw(shape[-1], dtype="bfloat16", seed=2))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("bias", DTYPES)
@pytest.mark.parametrize("out", DTYPES)
def test_mixed_types(dtype: str, bias: str, out: str) -> None:
    x, b = draw(5, 530, dtype=dtype), draw(530, dtype=bias, seed=1)
    check(Kind.GELU_TANH, x, b, dtype=out)
    check_vjp(Kind.SILU, x, draw(5, 530, dtype=bias, seed=2), b, dtype=out)


# Gated


def gated_plain(arrays: list[Any], kind: Kind, slope: float, dtype: Any) -> np.ndarray:
    gate, up, gate_bias, up_bias = (wide(x, dtype) for x in arrays)
    with np.errstate(all="ignore"):
        return activation(kind, gate + gate_bias, slope, dtype) * (up + up_bias)


def gated_gradients(arrays: list[Any], g: Any, kind: Kind, dtype: Any) -> tuple[np.ndarray, np.ndarray]:
    gate, up, gate_bias, up_bias = (wide(x, dtype) for x in arrays)
    with np.errstate(all="ignore"):
        d_gate = wide(g, dtype) * (up + up_bias) * derivative(kind, gate + gate_bias, 1.0, dtype)
        return d_gate, wide(g, dtype) * activation(kind, gate + gate_bias, 1.0, dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("halves", ["none", "gate_first", "gate_last"])
@pytest.mark.parametrize("kind", [Kind.SILU, Kind.GELU, Kind.RELU])
def test_gated(kind: Kind, halves: str, bias: bool, dtype: str) -> None:
    f = 53
    gate, up, g = (draw(4, 9, f, dtype=dtype, seed=seed) for seed in range(3))
    biases = [draw(f, dtype=dtype, seed=seed + 3) if bias else np.zeros(f, dtype) for seed in range(2)]
    if halves == "none":
        operands = [gate, up, *(biases if bias else [])]
        columns = [Columns(i if i < len(operands) else -1) for i in range(4)]
    else:
        order = [0, 1] if halves == "gate_first" else [1, 0]
        operands = [np.concatenate([(gate, up)[i] for i in order], -1)]
        operands += [np.concatenate([biases[i] for i in order])] if bias else []
        offsets = [order.index(i) * f for i in range(2)]
        columns = [Columns(0, offset) for offset in offsets] + [Columns(1 if bias else -1, o) for o in offsets]
    names = dict(zip(("gate", "up", "gate_bias", "up_bias"), columns, strict=True))
    arrays = [gate, up, *biases]
    got = jax.jit(lambda *x: swiglu_call(x, **names, features=f, kind=kind))(*operands)
    assert got.dtype == jnp.dtype(dtype)
    judge(got, gated_plain(arrays, kind, 1.0, F64), gated_plain(arrays, kind, 1.0, F32))
    gradients = jax.jit(lambda g, *x: swiglu_vjp_call(x, g, **names, kind=kind))(g, *operands)
    exact, naive = (gated_gradients(arrays, g, kind, d) for d in (F64, F32))
    if halves == "none":
        for one, e, n in zip(gradients, exact, naive, strict=True):
            judge(one, e, n, terms=30)
    else:
        (both,) = gradients
        judge(both, *(np.concatenate([pair[i] for i in order], -1) for pair in (exact, naive)), terms=30)


def test_gated_columns_of_a_wider_operand_and_mixed_types() -> None:
    x, up = draw(6, 100, dtype="bfloat16"), draw(6, 30, dtype="float16", seed=1)
    got = swiglu_call([x, up], gate=Columns(0, 60), up=Columns(1), features=30, kind=Kind.GELU, dtype="float32")
    arrays = [x[:, 60:90], up, np.zeros(30), np.zeros(30)]
    judge(got, gated_plain(arrays, Kind.GELU, 1.0, F64), gated_plain(arrays, Kind.GELU, 1.0, F32))


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_gated_values_that_are_not_finite(value: float) -> None:
    gate, up = draw(3, 20), draw(3, 20, seed=1)
    gate[0, 3] = up[1, 4] = gate[2, 5] = up[2, 5] = value
    names = {"gate": Columns(0), "up": Columns(1)}
    arrays, g = [gate, up, np.zeros(20), np.zeros(20)], np.ones((3, 20), F32)
    got = swiglu_call([gate, up], **names, features=20, kind=Kind.SILU)
    judge(got, gated_plain(arrays, Kind.SILU, 1.0, F64), gated_plain(arrays, Kind.SILU, 1.0, F32))
    gradients = swiglu_vjp_call([gate, up], jnp.asarray(g), **names, kind=Kind.SILU)
    for i, one in enumerate(gradients):
        judge(one, *(gated_gradients(arrays, g, Kind.SILU, d)[i] for d in (F64, F32)), terms=30)


# Threads


def test_concurrent_calls() -> None:
    x = jnp.asarray(draw(500, 777))
    call = jax.jit(lambda x: activation_call(x, kind=Kind.GELU))
    expected, results = np.asarray(call(x)), {}

    def run(i: int) -> None:
        results[i] = np.asarray(call(x))

    threads = [threading.Thread(target=run, args=(i,)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)
    for i in range(8):
        np.testing.assert_array_equal(results[i], expected)


# Refusals

X = np.zeros((4, 6), F32)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: activation_call(jnp.zeros((), F32), kind=Kind.GELU), "x is a scalar"),
        (lambda: activation_call(X, np.zeros(5, F32), kind=Kind.GELU), "bias has 5 features, expected at least 6"),
        (lambda: activation_call(X, np.zeros(7, F32), kind=Kind.GELU), "bias has 7 elements, expected 6"),
        (lambda: activation_call(X, np.zeros((2, 6), F32), kind=Kind.GELU), "bias has 2 rows of features, expected 1"),
        (lambda: activation_call(X, kind=Kind.RELU + 1), "kind is 5, expected 0 to 4"),
        (lambda: activation_call(X, kind=Kind.GELU, dtype="int32"), "out has element type"),
        (lambda: activation_call(X.astype(np.int32), kind=Kind.GELU, dtype=F32), "x has element type"),
        (lambda: activation_vjp_call(X, np.zeros((3, 6), F32), kind=Kind.GELU), "cotangent has 3 rows"),
        (lambda: activation_vjp_call(X, np.zeros((4, 7), F32), kind=Kind.GELU), "cotangent has 7 elements, expected 6"),
        (lambda: swiglu_call([X], gate=Columns(0), up=Columns(0, 3), features=4, kind=Kind.SILU), "up has 6 features"),
        (lambda: swiglu_call([X], gate=Columns(0), up=Columns(2), features=6, kind=Kind.SILU), "names operand 2"),
        (lambda: swiglu_call([X], gate=Columns(0), up=Columns(0, -1), features=3, kind=Kind.SILU), "from -1 on"),
        (
            lambda: swiglu_call([X, X[:3]], gate=Columns(0), up=Columns(1), features=6, kind=Kind.SILU),
            "up has 3 rows of features, expected 4",
        ),
        (
            lambda: swiglu_vjp_call([X], X[:, :3], gate=Columns(0), up=Columns(0), kind=Kind.SILU),
            "gate and up are the same columns",
        ),
        (
            lambda: swiglu_vjp_call([X], X[:, :3], gate=Columns(0, 1), up=Columns(0, 3), kind=Kind.SILU),
            "is 1, expected 0 or 3",
        ),
    ],
)
def test_bad_arguments_raise(call: Any, message: str) -> None:
    with pytest.raises(jax.errors.JaxRuntimeError, match=message):
        jax.block_until_ready(call())


def test_a_scalar_has_no_features() -> None:
    call = jax.ffi.ffi_call("zenith_activation", jax.ShapeDtypeStruct((), F32))
    with pytest.raises(jax.errors.JaxRuntimeError, match="out is a scalar, expected an axis of features"):
        jax.block_until_ready(call(np.zeros((3, 0), F32), kind=np.int64(Kind.GELU), slope=np.float32(1)))
