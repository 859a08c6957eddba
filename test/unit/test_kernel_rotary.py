"""The CPU rotary kernel against the plain formula in float64."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from zenith_mlir.kernels.cpu.rotary import rotary_call
from zenith_mlir.kernels.reference import rotary as reference

pytestmark = [pytest.mark.once, pytest.mark.filterwarnings("ignore::RuntimeWarning")]

DTYPES = ["float32", "bfloat16", "float16"]
SIZES = {"b": 2, "t": 5, "h": 3}

Problem = tuple[list[np.ndarray], dict[str, Any]]  # operands, and what rotary_call is told of them


def strides(axes: str, columns: int, wanted: str) -> list[int]:
    """Strides of the axes `wanted` in a row-major array of `axes` and `columns`; 0 for an axis that it lacks."""
    extents = [*(SIZES[a] for a in axes), columns]
    return [int(np.prod(extents[axes.index(w) + 1 :])) if w in axes else 0 for w in wanted]


def problem(
    x_axes: str = "bth",
    table_axes: str = "t",
    features: int = 64,
    rotated: int = 64,
    full: bool = False,
    dtype: str = "float32",
    table_dtype: str = "float32",
    **flags: bool,
) -> Problem:
    rng = np.random.default_rng(0)
    columns = rotated if full else rotated // 2
    x = rng.normal(size=[*(SIZES[a] for a in x_axes), features]).astype(jnp.dtype(dtype))
    angles = rng.normal(size=[*(SIZES[a] for a in table_axes), columns]) * 10
    arrays = [x, *(f(angles).astype(jnp.dtype(table_dtype)) for f in (np.cos, np.sin))]
    table = strides(table_axes, columns, x_axes)
    arguments = {
        "dims": [SIZES[a] for a in x_axes],
        "rotated": rotated,
        "x_strides": strides(x_axes, features, x_axes),
        "cos_strides": table,
        "sin_strides": table,
        **flags,
    }
    return arrays, arguments


def check(*problems: Problem) -> list[np.ndarray]:
    """Judge the kernel on each problem; all are compiled as one program."""

    def kernels(operands: list[list[Any]]) -> list[Any]:
        return [rotary_call(*own, **arguments) for own, (_, arguments) in zip(operands, problems, strict=True)]

    results = [np.asarray(x) for x in jax.jit(kernels)([arrays for arrays, _ in problems])]
    for got, (arrays, arguments) in zip(results, problems, strict=True):
        judge(got, arrays, arguments)
    return results


def judge(got: np.ndarray, arrays: list[np.ndarray], arguments: dict[str, Any]) -> None:
    assert got.dtype == arrays[0].dtype
    exact = reference.rotary(*arrays, **arguments)
    naive = reference.rotary(*arrays, **arguments, dtype=np.float32)
    rounding = 0.0 if got.dtype == np.float32 else float(jnp.finfo(got.dtype).eps) / 2
    wide = got.astype(np.float64)
    np.testing.assert_array_equal(np.isnan(wide), np.isnan(naive))
    finite = np.isfinite(naive)
    np.testing.assert_array_equal(wide[~finite], naive[~finite])
    error = np.abs(wide - exact)[finite] - rounding * np.abs(exact[finite])
    bound = 2 * np.abs(naive - exact)[finite].max(initial=0) + 2.0**-24
    assert error.max(initial=0) <= bound


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("table_dtype", DTYPES)
@pytest.mark.parametrize("interleaved", [False, True])
@pytest.mark.parametrize("transposed", [False, True])
def test_pairings_and_types(dtype: str, table_dtype: str, interleaved: bool, transposed: bool) -> None:
    flags = {"interleaved": interleaved, "transposed": transposed}
    check(*(problem(dtype=dtype, table_dtype=table_dtype, full=full, **flags) for full in (False, True)))


@pytest.mark.parametrize("rotated", [0, 2, 6, 14, 16, 30, 34, 62, 66, 100])
@pytest.mark.parametrize("interleaved", [False, True])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_partial_and_ragged(rotated: int, interleaved: bool, dtype: str) -> None:
    given = {"rotated": rotated, "interleaved": interleaved, "dtype": dtype}
    widths = (rotated, rotated + 1, rotated + 37)
    check(*(problem(features=features, full=full, **given) for features in widths for full in (False, True)))


@pytest.mark.parametrize("x_axes", ["bth", "bht", "thb", "t", ""])
@pytest.mark.parametrize("table_axes", ["", "t", "bt", "th"])
def test_layouts(x_axes: str, table_axes: str) -> None:
    if set(table_axes) <= set(x_axes):
        check(problem(x_axes, table_axes, features=20, rotated=12))


def test_a_transposed_view_of_x() -> None:
    """dims may be in any order: here heads before time, of an array that has time first."""
    arrays, arguments = problem("bth")
    order = [0, 2, 1]
    for name in ("dims", "x_strides", "cos_strides", "sin_strides"):
        arguments[name] = [arguments[name][i] for i in order]
    np.testing.assert_array_equal(*check((arrays, arguments), problem("bth")))


def test_the_transposed_rotation_is_the_gradient() -> None:
    (x, cos, sin), arguments = problem(full=True, rotated=24)
    g = np.random.default_rng(1).normal(size=x.shape).astype(np.float32)
    out = reference.rotary(x, cos, sin, **arguments)
    dx = reference.rotary(g, cos, sin, **arguments, transposed=True)
    np.testing.assert_allclose((g * out).sum(), (dx * x).sum(), rtol=1e-9)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("operand", [0, 1, 2])
def test_values_that_are_not_finite(value: float, operand: int) -> None:
    arrays, arguments = problem(features=70)
    arrays[operand].reshape(-1)[[3, 40, 66]] = value
    check((arrays, arguments))


def test_many_rows() -> None:
    """Several items, whose first rows are in the middle of an axis."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(3, 701, 5, 16)).astype(np.float32)
    cos, sin = rng.normal(size=(2, 701, 8)).astype(np.float32)
    table = [0, 8, 0]
    arguments = {"dims": x.shape[:-1], "rotated": 16, "x_strides": [701 * 80, 80, 16]}
    check(([x, cos, sin], arguments | {"cos_strides": table, "sin_strides": table}))


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"dims": [2, 5, 4]}, "the strides of x reach element"),
        ({"dims": [2, 5]}, "attribute x_strides has 3 elements, expected 2"),
        ({"dims": [1] * 9}, "dims has 9 elements, at most 8"),
        ({"dims": [2, -5, 3]}, r"extent dims\[1\] is -5"),
        ({"dims": [2, 0, 3]}, "the strides of out must visit each of its 1920 elements exactly once"),
        ({"dims": [2**31, 2**31, 2**31]}, "the product of dims overflows"),
        ({"rotated": 63}, "rotated is 63, expected an even number up to the 64 features"),
        ({"rotated": 66}, "rotated is 66"),
        ({"rotated": 20}, "the tables have 32 columns, expected 20 or 10"),
        ({"cos_strides": [0, 33, 0]}, "the strides of cos reach element"),
        ({"sin_strides": [0, -1, 0]}, "the strides of sin are negative"),
        ({"x_strides": [960, 192, 0]}, "the strides of out must visit each of its 1920 elements exactly once"),
    ],
)
def test_bad_arguments_raise(changed: dict[str, Any], message: str) -> None:
    arrays, arguments = problem()
    with pytest.raises(jax.errors.JaxRuntimeError, match=message):
        jax.block_until_ready(rotary_call(*arrays, **arguments | changed))


def test_rows_times_features_does_not_wrap_around() -> None:
    dims = [5, 107367629, 536903681]  # 2^58 + 1 rows of 64 features are 64 elements modulo 2^64
    none = [0, 0, 0]
    x, table = np.zeros((1, 64), np.float32), np.zeros((1, 32), np.float32)
    strides = {"x_strides": none, "cos_strides": none, "sin_strides": none}
    with pytest.raises(jax.errors.JaxRuntimeError, match="the strides of out must visit each of its 64 elements"):
        jax.block_until_ready(rotary_call(x, table, table, dims=dims, rotated=64, **strides))


def test_bad_element_types_raise() -> None:
    (x, cos, sin), arguments = problem()
    with pytest.raises(jax.errors.JaxRuntimeError, match="sin has another element type than cos"):
        jax.block_until_ready(rotary_call(x, cos, sin.astype(np.float16), **arguments))
    with pytest.raises(jax.errors.JaxRuntimeError, match="x has element type"):
        jax.block_until_ready(rotary_call(x.astype(np.int32), cos, sin, **arguments))
