"""Scatters as jax.numpy makes them: updates that are out of bounds are left out, NaN stays, integers wrap."""

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
X = RNG.normal(size=(5, 6, 7)).astype(np.float32)
TABLE = RNG.normal(size=(10, 8)).astype(np.float32)
ROWS = RNG.normal(size=(2, 3, 8)).astype(np.float32)
IDS = np.array([[0, 9, -1], [10, -10, -11]], np.int32)
FOUR = np.array([3, 10, -11, 9], np.int32)
A = np.array([[0, 4, -1], [5, -5, -6]], np.int32)
B = np.array([[0, 5, -1], [6, -6, -7]], np.int32)
EACH = np.array([0, 5, -1, 6, -7], np.int32)
PAIRS = np.array([[0, 1], [5, 6], [-1, -7], [2, 3], [3, 4]], np.int32)
PLACES = np.array([[0, 0], [5, 3], [4, 3], [-1, 2], [1, 1]], np.int32)
WINDOWS = RNG.normal(size=(5, 2, 3)).astype(np.float32)
NUMBERS = lax.ScatterDimensionNumbers(
    update_window_dims=(1, 2), inserted_window_dims=(1,), scatter_dims_to_operand_dims=(2, 0)
)
ONE = lax.ScatterDimensionNumbers((0, 1, 2), (), (2, 0))
SETS: dict[str, tuple[Any, ...]] = {
    "rows": (lambda t, i, u: t.at[i].set(u), TABLE, FOUR, TABLE[:4]),
    "zeros": (lambda i, u: jnp.zeros((10, 8)).at[i].set(u), FOUR, TABLE[:4]),
    "unsigned": (lambda t, i, u: t.at[i].set(u), TABLE, np.array([3, 10, 2**32 - 1, 9], np.uint32), TABLE[:4]),
    "columns": (lambda t, i, u: t.at[:, i].set(u), TABLE, np.array([0, 5, 8, -9, -1], np.int32), TABLE[:, :5]),
    "one_row": (lambda t, i, u: [t.at[j].set(u) for j in i], TABLE, list(FOUR), TABLE[1]),
    "one_column": (lambda t, i, u: [t.at[:, j].set(u) for j in i], TABLE, list(FOUR), TABLE[:, 1]),
    "two_indexes": (lambda x, a, b, u: x.at[a, b].set(u), X, A, B, X[:2, :3]),
    "indexes_apart": (lambda x, a, b, u: x.at[a, :, b].set(u), X, A, B, X[:2, :, :3].transpose(0, 2, 1)),
    "whole": (lambda x, u: x.at[:].set(u), X, X + 1),
    "vmap": (lambda x, i, u: jax.vmap(lambda r, k, v: r.at[k].set(v))(x, i, u), X, EACH, X[:, 0]),
    "vmap_rows": (lambda x, i, u: jax.vmap(lambda r, k, v: r.at[k].set(v))(x, i, u), X, PAIRS, X[:, :2]),
    "vmap_update": (
        lambda x, i, u: jax.vmap(lambda r, v, k: lax.dynamic_update_slice(r, v, (k, 0)))(x, u, i),
        X,
        EACH,
        X[:, :2],
    ),
    "vmap_step": (
        lambda x, i, u: jax.vmap(lambda r, v, k: lax.dynamic_update_slice(r, v, (k, 0)))(x, u, i),
        X,
        EACH,
        X[:, :1],
    ),
    "along": (
        lambda t, i, u: jnp.put_along_axis(t, i, u, axis=1, inplace=False),
        TABLE,
        IDS[0, :1][None],
        TABLE[:1, :1],
    ),
    "one_hot": (lambda i: jnp.zeros((5, 4)).at[jnp.arange(5), i].set(1), EACH),
    "booleans": (lambda t, i, u: t.at[i].set(u), TABLE > 0, FOUR, TABLE[:4] > 0),
    "windows": (lambda x, i, u: lax.scatter(x, i, u, NUMBERS, mode="drop"), X, PLACES, WINDOWS),
    "clamped_windows": (lambda x, i, u: lax.scatter(x, i, u, NUMBERS, mode="clip"), X, PLACES, WINDOWS),
    "one_window": (
        lambda x, i, u: [lax.scatter(x, j, u, ONE, mode="drop") for j in i],
        X,
        [np.array([5, 3], np.int32), np.array([4, 3], np.int32)],
        X[:2, :, :3],
    ),
    "loop": (lambda x: lax.fori_loop(0, 5, lambda i, c: c.at[i].set(c[i - 1] + x[i]), jnp.zeros((5, 6, 7))), X),
    "nothing": (lambda t, i, u: t.at[i].set(u), TABLE, FOUR[:0], TABLE[:0]),
}
SUMS: dict[str, tuple[Any, ...]] = {
    "windows": (lambda x, i, u: lax.scatter_add(x, i, u, NUMBERS, mode="drop"), X, PLACES, WINDOWS),
    "clamped_windows": (lambda x, i, u: lax.scatter_add(x, i, u, NUMBERS, mode="clip"), X, PLACES, WINDOWS),
    "indexes_apart": (lambda x, a, b, u: x.at[a, :, b].add(u), X, A, B, X[:2, :, :3].transpose(0, 2, 1)),
    "number": (lambda x, a, b: x.at[a, b].add(1.0), X, A, B),
    "whole": (lambda x, u: x.at[:].add(u), X, X),
    "subtract": (lambda t, i, u: t.at[i].subtract(u), TABLE, IDS, ROWS),
    "segment_sum": (lambda u, i: jax.ops.segment_sum(u, i, num_segments=4), ROWS[0], np.array([3, -1, 3], np.int32)),
    "segment_max": (lambda u, i: jax.ops.segment_max(u, i, num_segments=4), ROWS[0], np.array([3, 0, 4], np.int32)),
    "bincount": (lambda i: jnp.bincount(i, length=6), np.array([3, 0, 3, 5, 7], np.int32)),
    "vmap": (lambda x, i, u: jax.vmap(lambda r, k, v: r.at[k].add(v))(x, i, u), X, PAIRS % 3, X[:, :2]),
}


def _of_all_types(kind: str) -> tuple[Any, ...]:
    def fn(tables: list[Any], index: Any, updates: list[Any]) -> list[Any]:
        return [getattr(t.at[index], kind)(u) for t, u in zip(tables, updates, strict=True)]

    types = ["float32", "int32", "uint8", "int8", *(["bool"] if kind in ("min", "max") else [])]
    tables, rows = TABLE.copy(), ROWS.copy()
    tables[0, ::2], rows[0, 0, 1], rows[1, 1] = np.nan, np.nan, np.inf
    numbers = [[(100 * each).astype(dtype) for dtype in types] for each in (TABLE, ROWS)]
    return fn, [tables, *numbers[0]], IDS, [rows, *numbers[1]]


@pytest.mark.parametrize("name", SETS)
def test_sets(name: str) -> None:
    agrees(*SETS[name])


@pytest.mark.parametrize("name", SUMS)
def test_sums(name: str) -> None:
    agrees(*SUMS[name], tolerance=1e-6)


@pytest.mark.parametrize("kind", ["add", "multiply", "min", "max"])
def test_every_type_combines_with_nan_and_wraps(kind: str) -> None:
    agrees(*_of_all_types(kind), tolerance=1e-6)


@pytest.mark.parametrize("dtype", [jnp.float16, jnp.bfloat16])
def test_floats_of_16_bits(dtype: Any) -> None:
    def fn(t: Any, i: Any, u: Any) -> Any:
        return t.at[i].max(u), t.at[i[0]].add(u[0]), t.at[i].set(u)

    agrees(fn, TABLE.astype(dtype), IDS[:, :2], ROWS[:, :2].astype(dtype))


def test_what_is_left_out_leaves_minus_zero() -> None:
    assert agrees(lambda t, i: 1 / t.at[i].add(1.0), np.full((3, 2), -0.0, np.float32), np.array([7], np.int32))


@pytest.mark.parametrize(
    ("fn", "args", "expected"),
    [
        (lambda x, u: x.at[:, :, ::2].set(u), (X, X[:, :, :4]), ["Concat", "Gather"]),
        (lambda x, u: x.at[:, jnp.array([1, 1, 3])].set(u), (X, X[:, :3]), ["Concat", "Gather"]),
        (lambda x, u: x.at[:, jnp.arange(5, -1, -1)].set(u), (X, X), ["Gather"]),
        (lambda x, u: x.at[jnp.array([1, -1, 3])].set(u), (X, X[:3]), ["ScatterND"]),
        (lambda x, u: x.at[1:3, :, 2:4].set(u), (X, X[:2, :, :2] + 1), ["ScatterND"]),
        (lambda u: jnp.zeros((5, 6)).at[1:3, 2:4].set(u), (X[:2, :2, 0],), ["Pad"]),
        (
            lambda t, i, u: t.at[i & 7].add(u),
            (TABLE, IDS[0], ROWS[0]),
            ["BitwiseAnd", "Cast", "Unsqueeze", "ScatterND"],
        ),
    ],
)
def test_as_few_nodes_as_possible(fn: Any, args: tuple[Any, ...], expected: list[str]) -> None:
    assert agrees(fn, *args) == expected


def test_other_opsets() -> None:
    for opset in (17, 24):
        for name in ("rows", "windows", "vmap"):
            agrees(*SETS[name], opset=opset)
        agrees(*SUMS["indexes_apart"], opset=opset, tolerance=1e-6)
    agrees(*_of_all_types("max"), opset=24)
    with pytest.raises(ZenithError, match="opset 18"):
        agrees(*SUMS["segment_max"], opset=17)


def test_by_the_reference() -> None:
    agrees(*SETS["rows"], reference=True)
    agrees(*SUMS["indexes_apart"], reference=True, tolerance=1e-6)


def test_any_other_update_is_refused() -> None:
    with pytest.raises(ZenithError, match="sets, adds, multiplies"):
        agrees(lambda t, i: t.at[i].apply(jnp.sin), TABLE, FOUR)
