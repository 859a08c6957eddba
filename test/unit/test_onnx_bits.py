"""Bits of numbers: floats taken apart and put together exactly, counts, and what jax.random does with them."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from unit.onnx_checks import agrees

from zenith_mlir.errors import ZenithError

pytestmark = pytest.mark.once

RNG = np.random.default_rng(0)
SPECIAL = np.array(
    [0.0, -0.0, 1.0, -1.0, np.inf, -np.inf, 1.1754944e-38, 1e-45, -1e-45, 1.1754942e-38, 3.4028235e38, 0.99999994],
    np.float32,
)
FLOATS = np.concatenate([SPECIAL, np.exp(RNG.normal(size=300) * 25), -(2.0 ** np.arange(-149, 128))])
FLOATS = FLOATS.astype(np.float32)
WORDS = np.concatenate(
    [RNG.integers(0, 2**32, 300, np.uint32), FLOATS.view(np.uint32), np.array([0, 1, 2**32 - 1], np.uint32)]
)
POWERS = np.array([2**k + d for k in range(32) for d in (-1, 0, 1)], np.uint32)
KEY = np.array([3, 2**32 - 5], np.uint32)


def _bits(dtype: Any) -> Any:
    return lambda x: lax.bitcast_convert_type(x, dtype)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.int32, jnp.uint8, jnp.int16])
def test_words(dtype: Any) -> None:
    agrees(_bits(dtype), WORDS)


@pytest.mark.parametrize("dtype", [jnp.uint32, jnp.int32, jnp.uint16])
def test_floats(dtype: Any) -> None:
    agrees(_bits(dtype), FLOATS)


def test_quiet_nan() -> None:
    agrees(_bits(jnp.uint32), np.array([np.nan, 1], np.float32))


def test_halves() -> None:
    every = np.arange(2**16, dtype=np.uint16)
    agrees(_bits(jnp.float16), every)
    agrees(_bits(jnp.bfloat16), every)
    halves = every.view(np.float16)
    agrees(_bits(jnp.uint16), halves[~np.isnan(halves)])
    brains = every.view(jnp.bfloat16)
    agrees(_bits(jnp.int16), brains[~np.isnan(brains.astype(np.float32))])


def test_joined() -> None:
    agrees(_bits(jnp.uint32), RNG.integers(0, 256, (5, 4), np.uint8))
    agrees(_bits(jnp.float32), RNG.integers(0, 2**15, (5, 2), np.int16))


def test_double() -> None:
    with jax.enable_x64(True):
        agrees(_bits(jnp.float64), np.concatenate([FLOATS.astype(np.float64), RNG.normal(size=50)]).view(np.uint64))
        agrees(_bits(jnp.uint64), RNG.integers(0, 2**32, (5, 2), np.uint32))


def test_signs() -> None:
    agrees(lambda x: (jnp.signbit(x), jnp.copysign(2.0, x), jnp.frexp(x)), SPECIAL[:7])


def test_next_after() -> None:
    # XLA takes denormal numbers for zeros when it compares.
    x = np.append(SPECIAL[np.abs(SPECIAL) != 1e-45][:-2], np.float32(np.nan))
    x = x[(np.abs(x) > 1.2e-38) | ~(np.abs(x) > 0)]
    agrees(lambda x, y: jnp.nextafter(x[:, None], y), x, x)
    agrees(lambda x: jnp.nextafter(x, jnp.bfloat16(1)), SPECIAL[:6].astype(jnp.bfloat16))


@pytest.mark.parametrize("dtype", [np.uint32, np.int32, np.uint8, np.int8, np.uint16, np.int16])
def test_counts(dtype: Any) -> None:
    agrees(lambda x: (lax.population_count(x), lax.clz(x)), POWERS.astype(dtype).reshape(3, -1))


def test_counts_of_64_bits() -> None:
    with jax.enable_x64(True):
        words = np.array([2**k + d for k in range(64) for d in (-1, 0, 1)], np.uint64)
        agrees(lambda x: (lax.population_count(x), lax.clz(x)), words)


RANDOM: dict[str, Any] = {
    "uniform": lambda key: jax.random.uniform(key, (3, 5)),
    "between": lambda key: jax.random.uniform(key, (7,), minval=-2, maxval=3),
    "bits": lambda key: [jax.random.bits(key, (5,), dtype) for dtype in (jnp.uint32, jnp.uint8)],
    "bernoulli": lambda key: jax.random.bernoulli(key, 0.3, (20,)),
    "split": lambda key: jax.random.split(key, 3),
    "fold_in": lambda key: jax.random.fold_in(key, 7),
    "randint": lambda key: jax.random.randint(key, (20,), -5, 9),
    "permutation": lambda key: jax.random.permutation(key, 12),
    "half": lambda key: jax.random.uniform(key, (9,), jnp.float16),
    "bfloat16": lambda key: jax.random.uniform(key, (9,), jnp.bfloat16),
}
NEAR: dict[str, Any] = {
    "normal": lambda key: jax.random.normal(key, (50,)),
    "truncated": lambda key: jax.random.truncated_normal(key, -1, 1, (20,)),
    "gumbel": lambda key: jax.random.gumbel(key, (20,)),
    "exponential": lambda key: jax.random.exponential(key, (20,)),
}


@pytest.mark.parametrize("name", RANDOM)
def test_random_bit_for_bit(name: str) -> None:
    agrees(RANDOM[name], KEY)


@pytest.mark.parametrize("name", NEAR)
def test_random_through_functions(name: str) -> None:
    agrees(NEAR[name], KEY, tolerance=1e-6)


def test_categorical() -> None:
    agrees(lambda key, x: jax.random.categorical(key, x), KEY, RNG.normal(size=(6, 9)).astype(np.float32))


def test_fraction_of_bits_is_arithmetic_of_three_nodes() -> None:
    def fn(x: Any) -> Any:
        return lax.bitcast_convert_type((x >> 9) | np.uint32(0x3F800000), jnp.float32) - 1

    assert agrees(fn, WORDS) == ["BitShift", "Cast", "Mul", "Add", "Sub"]


def test_the_generator_of_the_device_is_refused() -> None:
    with pytest.raises(ZenithError, match="threefry2x32"):
        agrees(lambda seed: jax.random.bits(jax.random.key(seed, impl="rbg"), (3,)), np.int32(3))
