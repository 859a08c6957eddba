"""Fourier transforms and what is between them, as ONNX."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from unit.onnx_checks import agrees

from zenith_mlir.onnx.model import Unconvertible

pytestmark = pytest.mark.once
RANDOM = np.random.default_rng(0)
X = RANDOM.normal(size=(2, 8, 9)).astype("float32")
WEIGHTS = (RANDOM.normal(size=(8, 5)) + 1j * RANDOM.normal(size=(8, 5))).astype("complex64")


@pytest.mark.parametrize("n", [8, 9, 1])
def test_round_trips(n: int) -> None:
    for axis in (1, 2):
        spectrum = lambda x: jnp.fft.rfft(x, n, axis=axis)  # noqa: B023, E731
        agrees(lambda x: (s := spectrum(x), (s.real, s.imag))[1], X, tolerance=1e-6)  # noqa: B023
        agrees(lambda x: jnp.fft.irfft(jnp.fft.rfft(x, axis=axis), n, axis=axis), X, tolerance=1e-6)  # noqa: B023
        agrees(lambda x: jnp.fft.ifft(jnp.fft.fft(x, axis=axis) * 1j, axis=axis).imag, X, tolerance=1e-6)  # noqa: B023


def test_several_dimensions() -> None:
    agrees(lambda x: jnp.abs(jnp.fft.fft2(x)), X, tolerance=1e-6, opset=17)
    agrees(lambda x: jnp.fft.fftn(x).real, X, tolerance=1e-6)
    agrees(lambda x: jnp.fft.irfft2(jnp.fft.rfft2(x)), X, tolerance=1e-6)
    agrees(lambda x: jnp.fft.fft2(jnp.fft.fft(x), axes=(-2, -1)).real, X, tolerance=1e-6)


def test_a_layer_in_the_frequencies() -> None:
    def layer(x):
        s = jnp.fft.rfft2(x) * WEIGHTS
        s = jnp.concatenate([s[:, :4], jnp.conj(s[:, 4:])], 1) + (1 + 2j)
        return jnp.fft.irfft2(jnp.where(jnp.abs(s) > 0.5, s, 0), s=(8, 9))

    agrees(layer, X, tolerance=1e-5)


def test_arithmetic() -> None:
    def fn(x):
        z = jax.lax.complex(x, x[:, ::-1] * 2)
        w = jnp.exp(1j * x) / z - jnp.swapaxes(z, 0, 0)
        return jnp.abs(w), w.real, jnp.pad(w, ((0, 0), (1, 0), (0, 0))).imag

    agrees(fn, X, tolerance=1e-5)
    odd = np.asarray([[0, 0, np.inf, np.nan, 1e30], [0, 1, np.nan, 1, 1e30]], "float32")
    agrees(lambda x: jnp.abs(jax.lax.complex(x[0], x[1])), odd, tolerance=1e-6)


def test_double_precision() -> None:
    with jax.enable_x64(True):
        agrees(lambda x: jnp.fft.irfft(jnp.fft.rfft(x) * 2j), X.astype("float64"), tolerance=1e-14)


def test_what_is_refused() -> None:
    with pytest.raises(Unconvertible, match="at most 4096"):
        agrees(lambda x: jnp.abs(jnp.fft.fft(x)), np.zeros(4098, "float32"))
    with pytest.raises(Unconvertible, match="complex"):
        agrees(lambda x: jnp.sort(jnp.fft.fft(x)).real, X)
