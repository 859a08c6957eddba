"""Windows that are reduced, as ONNX: pools in every layout, NaN, cumulative forms."""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from unit.onnx_checks import agrees

from zenith_mlir.onnx.model import Unconvertible

pytestmark = pytest.mark.once
RANDOM = np.random.default_rng(0)
IMAGE = RANDOM.normal(size=(2, 8, 7, 3)).astype("float32")
ODD = IMAGE.copy()
ODD[0, 2, 3, 1], ODD[1, 4:, 4:, 0], ODD[1, 0, 0, 2], ODD[0, :4, :4, 2] = np.nan, np.nan, np.inf, -np.inf

JOIN = {"max": (lax.max, -np.inf), "min": (lax.min, np.inf), "add": (lax.add, 0.0), "mul": (lax.mul, 1.0)}
WAYS = {
    "valid": {"padding": "VALID"},
    "same": {},
    "strides": {"window_strides": (1, 2, 3, 1)},
    "asymmetric": {"padding": ((0, 0), (0, 1), (1, 0), (0, 0))},
    "negative": {"padding": ((0, 0), (-1, 1), (0, -2), (0, 0))},
    "wide": {"padding": ((0, 0), (4, 1), (0, 5), (0, 0))},
    "atrous": {"window_dilation": (1, 2, 3, 1)},
    "holes": {"base_dilation": (1, 2, 3, 1), "padding": ((0, 0), (2, 1), (0, 1), (0, 0))},
    "channels": {"window_dimensions": (1, 1, 1, 2)},
    "batch and channels": {"window_dimensions": (2, 1, 1, 2), "padding": ((1, 0), (0, 0), (0, 0), (0, 1))},
    "all": {"window_dimensions": (2, 2, 2, 2)},
    "none": {"window_dimensions": (1, 1, 1, 1)},
    "every other": {"window_dimensions": (1, 1, 1, 1), "window_strides": (1, 2, 2, 1)},
}


def _window(kind: str, way: str, dtype: str = "float32", init: float | None = None):
    join, neutral = JOIN[kind]
    if init is None:
        init = neutral
        if np.dtype(dtype).kind in "iu" and np.isinf(init):
            init = np.iinfo(dtype).min if init < 0 else np.iinfo(dtype).max
    how = {
        "window_dimensions": (1, 3, 2, 1),
        "window_strides": (1, 1, 1, 1),
        "padding": "SAME",
        **WAYS[way],
    }
    return lambda x: lax.reduce_window(x, np.asarray(init, dtype), join, **how)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("kind", ["max", "min"])
def test_extremes(kind: str, way: str) -> None:
    """NaN, infinities and windows that have nothing but padding are as XLA has them."""
    ops = agrees(_window(kind, way), ODD)
    assert ("MaxPool" in ops) == (way not in ("all", "none"))
    assert "Transpose" not in ops or way == "batch and channels"


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("kind", ["add", "mul"])
def test_sums_and_products(kind: str, way: str) -> None:
    agrees(_window(kind, way), np.round(IMAGE * 4), tolerance=1e-6 if kind == "mul" else 0)


@pytest.mark.parametrize("opset", [17, 24])
def test_opsets(opset: int) -> None:
    for kind in JOIN:
        agrees(_window(kind, "strides"), ODD, opset=opset, tolerance=1e-6)


def test_reference() -> None:
    agrees(_window("max", "valid"), IMAGE, reference=True)
    agrees(_window("add", "asymmetric"), IMAGE, reference=True, tolerance=1e-6)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "int8", "uint8", "int16", "int32", "uint32", "bool"])
def test_types(dtype: str) -> None:
    x = np.round(RANDOM.normal(size=(2, 8, 7, 3)) * 60).astype("int32").astype(dtype)
    for kind, way in (("max", "strides"), ("min", "wide"), ("add", "asymmetric")):
        if dtype == "bool":
            join, start = {"max": (lax.max, False), "min": (lax.min, True), "add": (lax.bitwise_or, False)}[kind]
            agrees(lambda x: lax.reduce_window(x, start, join, (1, 2, 2, 1), (1, 1, 1, 1), "SAME"), x)  # noqa: B023
        elif np.dtype(dtype).kind in "iu" or kind != "add":
            agrees(_window(kind, way, dtype), x)
        else:
            agrees(_window(kind, way, dtype), x, tolerance=1e-2)


@pytest.mark.parametrize("dtype", ["float64", "int64"])
def test_wide_types(dtype: str) -> None:
    with jax.enable_x64(True):
        for kind in JOIN:
            agrees(
                _window(kind, "wide", dtype), (ODD if dtype == "float64" else IMAGE * 4).astype(dtype), tolerance=1e-14
            )


def test_a_start_that_is_not_neutral() -> None:
    for kind in JOIN:
        agrees(_window(kind, "same", init=0.5), IMAGE, tolerance=1e-6)


def _avg(x, shape=(2, 2), strides=None, padding="VALID", **how):
    return nn.avg_pool(x, shape, strides, padding, **how)


@pytest.mark.parametrize("padding", ["VALID", "SAME", ((1, 0), (0, 1)), ((2, 0), (0, 3))])
@pytest.mark.parametrize("counted", [True, False])
def test_average_pools(padding, counted: bool) -> None:
    ops = agrees(lambda x: _avg(x, padding=padding, strides=(2, 1), count_include_pad=counted), IMAGE, tolerance=1e-6)
    wide = padding == ((2, 0), (0, 3))
    assert ("AveragePool" in ops) == (counted or not wide)
    assert "Div" not in ops or wide


def test_average_pools_of_other_ranks_and_types() -> None:
    agrees(lambda x: _avg(x, (3,), (2,), "SAME"), IMAGE[0], tolerance=1e-6)
    agrees(lambda x: _avg(x, (2, 2, 2), padding="SAME", count_include_pad=False), IMAGE[..., None], tolerance=1e-6)
    ops = agrees(lambda x: _avg(x, (2, 2), padding="SAME", count_include_pad=False),
                 IMAGE.astype("bfloat16"), tolerance=1e-2)  # fmt: skip
    assert "AveragePool" in ops


def test_a_sum_of_windows_divided_by_something_else() -> None:
    assert "AveragePool" not in agrees(lambda x: _window("add", "same")(x) / 5, IMAGE, tolerance=1e-6)


def test_means() -> None:
    assert agrees(lambda x: x.mean((1, 2)), IMAGE, tolerance=1e-6) == ["ReduceMean", "Squeeze"][:1] + agrees(
        lambda x: x.sum((1, 2)), IMAGE, tolerance=1e-6)[1:]  # fmt: skip
    assert "ReduceMean" in agrees(lambda x: x - x.mean(-1, keepdims=True), IMAGE, tolerance=1e-6)
    assert "ReduceMean" in agrees(lambda x: x.mean(1), IMAGE, tolerance=1e-6, opset=17)
    assert "ReduceMean" not in agrees(lambda x: x.sum(1) / 9, IMAGE, tolerance=1e-6)


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("name", ["cumsum", "cumprod", "cummax", "cummin", "cumlogsumexp"])
def test_cumulative(name: str, reverse: bool) -> None:
    fn = getattr(lax, name)
    odd = ODD[0, :, :, 0].copy()
    odd[5, 1], odd[2:, 2] = np.inf, -np.inf
    for axis in (0, 1):
        ops = agrees(lambda x: fn(x, axis=axis, reverse=reverse), odd, tolerance=1e-6)  # noqa: B023
    assert ops == ["CumSum"] or name != "cumsum"


def test_cumulative_of_other_types() -> None:
    x = np.arange(-5, 7, dtype="int32").reshape(3, 4)
    for dtype in ("int32", "int8", "uint32", "float16", "bfloat16"):
        ways = lambda x: [fn(x, axis=1) for fn in (lax.cumsum, lax.cumprod, lax.cummax)]  # noqa: E731
        agrees(ways, x.astype(dtype), opset=17, tolerance=1e-2)
    agrees(lambda x: jnp.cumsum(x, 0), x[:1])


def test_what_is_refused() -> None:
    def two(x):
        join = lambda a, b: (a[0] + b[0], a[1] * b[1])  # noqa: E731
        return lax.reduce_window((x, x), (0.0, 0.0), join, (1, 2, 2, 1), (1, 1, 1, 1), "SAME")

    with pytest.raises(Unconvertible, match="several operands"):
        agrees(two, IMAGE)
