"""Integer arithmetic at its edges, and conversions between all element types."""

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

TYPES = [np.int8, np.uint8, np.int16, np.uint16, np.int32, np.uint32]
FLOATS = np.array(
    [np.nan, np.inf, -np.inf, 3e9, -3e9, 5e9, 1e20, -1e20, 1.9, -1.9, 0.5, -0.5, 300, -1, 127.5, -128.9, 2**31, 65504],
    np.float32,
)


def _edges(dtype: Any) -> Any:
    info = np.iinfo(dtype)
    numbers = [info.min, info.min + 1, info.max, info.max - 1, 0, 1, 2, 3, 7, 8, 31, 32, 33, 63, 64, 65, 100]
    numbers += [-1, -2, -3, -7, -100] if info.min else [200]
    return np.array([number for number in numbers if number <= info.max], dtype)


def _pairs(dtype: Any) -> tuple[Any, Any]:
    edges = _edges(dtype)
    return np.repeat(edges, len(edges)), np.tile(edges, len(edges))


def _arithmetic(x: Any, y: Any) -> list[Any]:
    operations = (lax.div, lax.rem, lax.add, lax.sub, lax.mul, lax.max, lax.min, lax.bitwise_and, lax.bitwise_or)
    shifts = (lax.bitwise_xor, lax.shift_left, lax.shift_right_logical, lax.shift_right_arithmetic)
    return [operation(x, y) for operation in (*operations, *shifts)]


def _by_numbers(x: Any) -> list[Any]:
    dtype = x.dtype.type
    numbers = (0, 1, 3, 100, *((-1, -3) if np.iinfo(dtype).min else ()))
    operations = (lax.div, lax.rem, lax.shift_left, lax.shift_right_logical, lax.shift_right_arithmetic)
    return [operation(x, jnp.full_like(x, number)) for operation in operations for number in numbers]


@pytest.mark.parametrize("dtype", TYPES)
def test_arithmetic(dtype: Any) -> None:
    agrees(_arithmetic, *_pairs(dtype))


@pytest.mark.parametrize("dtype", TYPES)
def test_with_known_numbers(dtype: Any) -> None:
    agrees(_by_numbers, _edges(dtype))


@pytest.mark.parametrize("dtype", TYPES)
def test_one_operand(dtype: Any) -> None:
    agrees(
        lambda x: (-x, ~x, jnp.abs(x), jnp.sign(x), x**3, x // 3, x % 3, x == 0, x > 1, jnp.clip(x, 1, 5)),
        _edges(dtype),
    )


def test_64_bits() -> None:
    with jax.enable_x64(True):
        for dtype in (np.int64, np.uint64):
            agrees(_arithmetic, *_pairs(dtype))
            agrees(_by_numbers, _edges(dtype))


def test_opset_17_has_no_bits() -> None:
    agrees(lambda x, y: (lax.div(x, y), lax.rem(x, y), lax.shift_right_arithmetic(x, y)), *_pairs(np.int32), opset=17)
    agrees(lambda x, y: x & y, np.array([True, False]), np.array([True, True]), opset=17)
    with pytest.raises(ZenithError, match="opset 18"):
        agrees(lambda x, y: x & y, *_pairs(np.int32), opset=17)


@pytest.mark.parametrize("source", [np.float32, np.float16, jnp.bfloat16])
def test_floats_to_integers(source: Any) -> None:
    with np.errstate(over="ignore"):
        x = FLOATS.astype(source)
    agrees(lambda x: [x.astype(dtype) for dtype in (*TYPES, bool)], x)


def test_wide_floats_to_integers() -> None:
    with jax.enable_x64(True):
        x = np.append(FLOATS.astype(np.float64), [2.0**63, -(2.0**63), 2.0**64, 2.0**53 + 2, 1.9e19, -1.9e19, 2.0**62])
        agrees(lambda x: [x.astype(dtype) for dtype in (*TYPES, np.int64, np.uint64, np.float32, np.float16)], x)


def test_integers_to_others() -> None:
    every = [_edges(dtype) for dtype in TYPES]
    targets = (*TYPES, bool, np.float32, np.float16, jnp.bfloat16)
    agrees(lambda every: [x.astype(dtype) for x in every for dtype in targets], every)


def test_truth_values() -> None:
    agrees(lambda x: [x.astype(dtype) for dtype in (*TYPES, np.float32, jnp.bfloat16)], np.array([True, False]))
    agrees(lambda x, y, z: jnp.where(x, y, z), *np.array([[1, 0, 1, 0], [1, 1, 0, 0], [0, 1, 1, 0]], bool))


def test_four_bits() -> None:
    x = np.arange(-8, 8, dtype=np.int32)
    agrees(lambda x: x.astype(jnp.int4).astype(jnp.int32), x)
    agrees(lambda x: x.astype(jnp.uint4).astype(jnp.int32), x + 8)


def test_rounding_to_half() -> None:
    x = np.array([70000, 65520, 65519, 1e-8, 1.00390625, 1.01171875, np.nan, -np.inf, 3.4e38], np.float32)
    agrees(lambda x: [x.astype(dtype) for dtype in (jnp.float16, jnp.bfloat16)], x)
    agrees(lambda x: lax.reduce_precision(x, 5, 10), x)
