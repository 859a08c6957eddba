"""Gradients of pools by extremes, as ONNX."""

from __future__ import annotations

import flax.linen as nn
import jax
import numpy as np
import pytest
from jax import lax
from unit.onnx_checks import agrees

from zenith_mlir.onnx.model import Unconvertible

pytestmark = pytest.mark.once
RANDOM = np.random.default_rng(0)
# Few values: many windows have several equal elements.
IMAGE = np.round(RANDOM.normal(size=(2, 7, 6, 3)) * 2).astype("float32")
ODD = IMAGE.copy()
ODD[0, 2, 3, 1], ODD[1, 4:, 4:, 0], ODD[1, 0, 0, 2], ODD[0, :3, :3, 2] = np.nan, np.nan, np.inf, -np.inf


def _gradient(pool):
    def fn(x):
        y, pull = jax.vjp(pool, x)
        return pull(lax.iota("float32", y.size).reshape(y.shape).astype(y.dtype))[0]

    return fn


@pytest.mark.parametrize(
    ("shape", "strides", "padding"),
    [
        ((2, 2), (2, 2), "VALID"),
        ((3, 3), (2, 2), "SAME"),
        ((3, 2), (1, 1), ((1, 1), (0, 1))),
    ],
)
@pytest.mark.parametrize("join", [lax.max, lax.min])
def test_gradients_of_pools(join, shape, strides, padding) -> None:
    start = -np.inf if join is lax.max else np.inf
    if not isinstance(padding, str):
        padding = ((0, 0), *padding, (0, 0))
    agrees(_gradient(lambda x: lax.reduce_window(x, start, join, (1, *shape, 1), (1, *strides, 1), padding)), ODD)


def test_one_dimension_and_half_types() -> None:
    agrees(_gradient(lambda x: nn.max_pool(x, (3,), (2,), "SAME")), IMAGE[0], opset=17)
    agrees(_gradient(lambda x: nn.max_pool(x, (2, 2), (2, 2))), IMAGE.astype("bfloat16"))


def test_windows_that_are_too_large_are_refused() -> None:
    with pytest.raises(Unconvertible, match="more than 256"):
        agrees(_gradient(lambda x: nn.max_pool(x, (17, 17), (1, 1))), np.zeros((1, 18, 18, 1), "float32"))
