"""The vector functions against float64, outside XLA, whose threads flush subnormal numbers: every float16 and bfloat16,
and a sweep of float32. The bounds are those that vec_math.h states.
"""

import ctypes
import math

import jax.numpy as jnp
import numpy as np
import pytest

from zenith_mlir.kernels.cpu import library

pytestmark = pytest.mark.once

INF = np.inf
vectorized_erf = np.vectorize(math.erf, otypes=[np.float64])
vectorized_erfc = np.vectorize(math.erfc, otypes=[np.float64])

# name -> the function in float64, the arguments it is for, the bound in ulp
FUNCTIONS = {
    "exp": (np.exp, (-INF, INF), 1.18),
    "exp_non_positive": (lambda x: np.where(x < -87.33654, 0, np.exp(x)), (-INF, 0), 1.18),
    "log": (np.log, (-INF, INF), 1.04),
    "tanh": (np.tanh, (-INF, INF), 1.58),
    "sigmoid": (lambda x: np.where(x < 0, np.exp(x), 1) / (1 + np.exp(-np.abs(x))), (-INF, INF), 2.8),
    "erf": (vectorized_erf, (-INF, INF), 1.8),
    "normal_cdf": (lambda x: 0.5 * vectorized_erfc(-x * math.sqrt(0.5)), (-2, INF), 8),
}


def evaluate(name: str, x: np.ndarray) -> np.ndarray:
    y = np.empty_like(x)
    pointer = ctypes.POINTER(ctypes.c_float)
    function = library.load().zenith_vec_math
    function.argtypes = [ctypes.c_char_p, pointer, pointer, ctypes.c_int64]
    status = function(name.encode(), x.ctypes.data_as(pointer), y.ctypes.data_as(pointer), x.size)
    if status:
        raise KeyError(name)
    return y


def arguments() -> np.ndarray:
    halves = np.arange(2**16, dtype=np.uint16)
    rng = np.random.default_rng(0)
    bits = rng.integers(0, 2**32, 60_000, dtype=np.uint32).view(np.float32)
    ordinary = np.concatenate([np.linspace(-20, 20, 60_001), rng.normal(size=40_000), np.linspace(-104, 90, 40_003)])
    return np.concatenate(
        [
            halves.view(np.float16).astype(np.float32),
            halves.view(jnp.bfloat16).astype(np.float32),
            bits,
            ordinary.astype(np.float32),
        ]
    )


def check(name: str, x: np.ndarray, bound: float) -> None:
    exact = FUNCTIONS[name][0](x.astype(np.float64))
    got = evaluate(name, x)
    rounded = exact.astype(np.float32)
    np.testing.assert_array_equal(np.isnan(got), np.isnan(exact))
    finite = np.isfinite(rounded) & (exact != 0)
    np.testing.assert_array_equal(got[~finite], rounded[~finite])
    _, exponent = np.frexp(exact[finite])
    ulp = np.ldexp(1.0, np.maximum(exponent - 24, -149))
    error = np.abs(got[finite] - exact[finite]) / ulp
    worst = error.argmax()
    assert error[worst] <= bound, f"{name}({x[finite][worst]!r}) is {error[worst]} ulp off, at most {bound} expected"


@pytest.mark.parametrize("name", FUNCTIONS)
def test_functions(name: str) -> None:
    _, (low, high), bound = FUNCTIONS[name]
    with np.errstate(all="ignore"):
        x = arguments()
        check(name, x[~((x < low) | (x > high))], bound)


@pytest.mark.parametrize(("low", "bound"), [(-4, 14), (-12.9, 66)])
def test_the_tail_of_the_normal_distribution(low: float, bound: float) -> None:
    check("normal_cdf", np.linspace(low, 0, 100_000, dtype=np.float32), bound)


@pytest.mark.parametrize("n", [0, 1, 3, 15, 17, 33])
def test_ragged_lengths(n: int) -> None:
    x = np.linspace(-3, 3, 64, dtype=np.float32)
    y = np.full(64, 7, np.float32)
    pointer = ctypes.POINTER(ctypes.c_float)
    library.load().zenith_vec_math(b"exp", x.ctypes.data_as(pointer), y.ctypes.data_as(pointer), ctypes.c_int64(n))
    np.testing.assert_allclose(y[:n], np.exp(x[:n]), rtol=3e-7)
    assert (y[n:] == 7).all()


def test_unknown_names_are_refused() -> None:
    with pytest.raises(KeyError, match="sine"):
        evaluate("sine", np.zeros(1, np.float32))
