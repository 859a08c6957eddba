"""Sorts and top k: stable, NaN at the end, zeros of both signs equal."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from unit.onnx_checks import agrees

from zenith_mlir.errors import ZenithError
from zenith_mlir.module import load
from zenith_mlir.onnx.model import Interface, build_model

pytestmark = pytest.mark.once

RNG = np.random.default_rng(0)
X = RNG.integers(-4, 5, (4, 40, 3)).astype(np.float32)
X[X == 1] = -0.0
X[0, ::7], X[1, 5], X[2, 6] = np.nan, np.inf, -np.inf
LINE = RNG.integers(0, 4, 60).astype(np.int32)
REAL = RNG.normal(size=(3, 17)).astype(np.float32)
NUMBERS = RNG.normal(size=200) * 100
SORTS: dict[str, tuple[Any, ...]] = {
    "sort": (lambda x: [jnp.sort(x, axis=d) for d in range(3)], X),
    "argsort": (lambda x: [jnp.argsort(x, axis=d) for d in range(3)], X),
    "descending": (lambda x: (jnp.sort(x, axis=1, descending=True), jnp.argsort(x, axis=1, descending=True)), X),
    "transposed": (lambda x: jnp.sort(x.transpose(2, 0, 1), axis=2) + 1, X),
    "repeated": (lambda i: jnp.argsort(jnp.broadcast_to(i, (3, 60)), axis=1), LINE),
    "constant_along": (lambda i: jnp.argsort(jnp.broadcast_to(i[:, None], (60, 3)), axis=1), LINE),
    "lexsort": (lambda a, b, c: jnp.lexsort((c, a, b)), LINE, LINE[::-1].copy(), X[0, :20].reshape(60)),
    "with_others": (lambda a, b, x: lax.sort((a, b, x), num_keys=2), LINE, LINE[::-1].copy(), X[0, :20].reshape(60)),
    "second_key": (lambda a, x: lax.sort((a, x), num_keys=1), LINE, X[0, :20].reshape(60)),
    "median": (lambda x: jnp.median(x, axis=1), REAL),
    "unique": (lambda i: jnp.unique(i, size=5), LINE),
    "permuted": (lambda x, i: x[jnp.argsort(i)], X[0].repeat(2, axis=0)[:60], LINE),
    "top_k": (lambda x: lax.top_k(x, 3), REAL),
    "all": (lambda x: lax.top_k(x, 17), REAL),
    "top_k_ties": (lambda i: lax.top_k(i, 9), LINE),
    "top_k_axis": (lambda x: lax.top_k(x, 3, axis=0), REAL),
    "top_k_router": (lambda x: jnp.take_along_axis(x, lax.top_k(x, 2)[1], axis=-1), REAL),
    "approx_max": (lambda x: lax.approx_max_k(x, 3), REAL),
    "approx_min": (lambda x: lax.approx_min_k(x, 3, reduction_dimension=0), REAL[:, :3]),
}


@pytest.mark.parametrize("name", SORTS)
def test_sorts(name: str) -> None:
    agrees(*SORTS[name])


def test_every_type() -> None:
    names = ["float16", "bfloat16", "int8", "uint8", "int16", "uint16", "int32", "uint32", "bool"]
    arrays = [jnp.asarray(NUMBERS).astype(name) for name in names]
    agrees(lambda arrays: [f(a) for a in arrays for f in (jnp.sort, jnp.argsort)], arrays)


def test_wide_types() -> None:
    with jax.enable_x64(True):
        wide = [RNG.integers(0, 2**64, 50, np.uint64), RNG.integers(-(2**63), 2**63, 50), NUMBERS]
        agrees(lambda arrays: [f(a) for a in arrays for f in (jnp.sort, jnp.argsort)], wide)


def test_many_nan_in_long_lines() -> None:
    x = RNG.normal(size=(2, 1000)).astype(np.float32)
    x[:, ::3] = np.nan
    agrees(lambda x: (jnp.sort(x), jnp.argsort(x), lax.top_k(x, 5), lax.top_k(x, 500)), x)


@pytest.mark.parametrize(
    ("fn", "expected"),
    [
        (lambda x: jnp.sort(x, axis=0), ["TopK"]),
        (lambda x: jnp.argsort(x, axis=0), ["TopK", "Cast"]),
        (lambda x: lax.top_k(x, 3), ["TopK", "Cast"]),
        (lambda x: lax.sort((x, x + 1), num_keys=1), ["Add", "TopK", "GatherElements"]),
    ],
)
def test_as_few_nodes_as_possible(fn: Any, expected: list[str]) -> None:
    assert agrees(fn, REAL) == expected


@pytest.mark.parametrize("opset", [17, 24])
def test_other_opsets(opset: int) -> None:
    agrees(*SORTS["with_others"], opset=opset)
    agrees(*SORTS["top_k"], opset=opset)


def test_by_the_reference() -> None:
    agrees(*SORTS["with_others"], reference=True)


BY_SIZE = """
func.func public @main(%x: tensor<5xf32>) -> tensor<5xf32> {
  %0 = "stablehlo.sort"(%x) <{dimension = 0 : i64, is_stable = true}> ({
  ^bb0(%a: tensor<f32>, %b: tensor<f32>):
    %1 = stablehlo.abs %a : tensor<f32>
    %2 = stablehlo.compare LT, %1, %b, FLOAT : (tensor<f32>, tensor<f32>) -> tensor<i1>
    stablehlo.return %2 : tensor<i1>
  }) : (tensor<5xf32>) -> tensor<5xf32>
  return %0 : tensor<5xf32>
}
"""


def test_another_order_is_refused() -> None:
    with pytest.raises(ZenithError, match="compares operands"):
        build_model(load(BY_SIZE.encode()), Interface())
    total = BY_SIZE.replace("%1, %b, FLOAT", "%a, %b, TOTALORDER")
    with pytest.raises(ZenithError, match="zeros of both signs"):
        build_model(load(total.encode()), Interface())
