"""The rules of `simplify` change no bit: programs before and after, on ordinary and on odd numbers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest

import zenith_mlir as zenith

ODD = np.array([0.0, -0.0, 1.0, -1.5, np.inf, -np.inf, np.nan, 1e-45, 3e38, -7.25], np.float32)
MATRIX = np.random.default_rng(0).standard_normal((4, 6)).astype(np.float32)
FLAGS = np.array([True, False, True, True])

PROGRAMS: dict[str, tuple[Callable[..., Any], list[Any]]] = {
    "neutral operands": (
        lambda x: ((x + -0.0) * 1.0 / 1.0 - 0.0, jnp.maximum(-jnp.inf, x), jnp.minimum(jnp.inf, x)),
        [ODD],
    ),
    "plus zero": (lambda x: x + 0.0, [ODD]),
    "zero on the left": (lambda x: (0.0 - x, 0.0 * x, 2.0 / x), [ODD]),
    "double negation": (lambda x: jnp.negative(jnp.negative(x)), [ODD]),
    "square": (lambda x: jnp.square(x), [ODD]),
    "shape chains": (
        lambda x: (x[None].transpose(2, 0, 1).reshape(3, 8).T, jnp.broadcast_to(x.reshape(1, 4, 1, 6), (2, 4, 3, 6))),
        [MATRIX],
    ),
    "outer product": (lambda x, y: jnp.einsum("i,j->ij", x, y), [MATRIX[0], MATRIX[1]]),
    "batched outer product": (lambda x, y: jnp.einsum("bi,bj->bji", x, y), [MATRIX, MATRIX[:, :2]]),
    "head mask of ones": (lambda p: jnp.einsum("h,bhts->bhts", jnp.ones(4), p.reshape(2, 4, 1, 3)), [MATRIX]),
    "narrow and wide": (
        lambda x, y: (x.astype(jnp.float32).astype(jnp.bfloat16), y.astype(jnp.bfloat16).astype(jnp.float32)),
        [MATRIX.astype(ml_dtypes.bfloat16), MATRIX],
    ),
    "integers": (
        lambda i: ((i + 0) * 1, (i.astype(jnp.int8)).astype(jnp.int32), i.astype(jnp.uint8)),
        [np.arange(-3, 300, 50)],
    ),
    "predicates": (
        lambda p: (
            p.astype(jnp.int32) != 0,
            p.astype(jnp.float32) == 1,
            (p * 1 == 0),
            ~(~p),
            p & True,
            p | False,
            p & p,
            jnp.where(p, True, False),
            jnp.where(p, False, True),
            jnp.where(~p, 1.0, 2.0),
            p == True,  # noqa: E712
        ),
        [FLAGS],
    ),
    "predicates against other numbers": (
        lambda p: (p.astype(jnp.int32) >= -1, p.astype(jnp.int32) != -1, p.astype(jnp.int8) == -1, p * 1.0 < -1),
        [FLAGS],
    ),
    "select between equal predicates": (
        lambda p: (jnp.where(p, p | True, jnp.ones(4, bool)), jnp.where(p, p & False, jnp.zeros(4, bool))),
        [FLAGS],
    ),
    "constants out of range": (
        lambda x: (
            jnp.full(4, 3e9, jnp.float32).astype(jnp.int32) + x.astype(jnp.int32),
            jnp.full(4, -3.0, jnp.float32).astype(jnp.uint8),
            jnp.full(4, 300.0, jnp.float32).astype(jnp.int8),
            jnp.full(4, -7.9, jnp.float32).astype(jnp.int8),
        ),
        [MATRIX[:, 0]],
    ),
    "complex constants": (lambda x: jnp.fft.irfft(jnp.fft.rfft(x) * (2 + 1j)), [MATRIX]),
    "negated comparisons": (lambda x: (~(x < 1.0), ~(x == x), ~(x != 1.0), ~(x.astype(jnp.int32) < 1)), [ODD[:5]]),
    "masks": (
        lambda x: jnp.where(
            jnp.tril(jnp.ones((4, 6))) != 0, x, jnp.where(jnp.triu(jnp.ones((4, 6)), k=2) > 0, 1.0, 7.0)
        ),
        [MATRIX],
    ),
    "folded constants": (
        lambda x: x / jnp.sqrt(jnp.float32(7.0)) * jnp.bfloat16(1) / 3 * (jnp.float32(1) / 49),
        [MATRIX],
    ),
    "control flow": (lambda x: jax.lax.fori_loop(0, 3, lambda i, y: jnp.maximum(-jnp.inf, y * 1.0) + i, x), [MATRIX]),
}


@pytest.mark.parametrize("name", PROGRAMS)
def test_no_bit_changes(name: str) -> None:
    function, arguments = PROGRAMS[name]
    module = zenith.trace(function, *arguments)
    simplified = module.run("prepare", target="cpu")
    arrays = [np.asarray(jnp.asarray(x)) for x in arguments]
    for before, after in zip(module.compile("cpu")(*arrays), simplified.compile("cpu")(*arrays), strict=True):
        np.testing.assert_array_equal(bits(before), bits(after))


def bits(x: jax.Array) -> np.ndarray:
    """Bit patterns, NaNs made equal: which NaN an operation gives is nobody's promise."""
    array = np.asarray(x)
    if array.dtype.kind in "biu":
        return array
    array = np.where(np.isnan(array.astype(np.float32)), np.asarray(np.nan, array.dtype), array)
    return array.view(f"u{array.dtype.itemsize}")


def test_a_fixed_point() -> None:
    for function, arguments in PROGRAMS.values():
        once = zenith.trace(function, *arguments).run("prepare", target="cpu")
        assert once.run("prepare", target="cpu").text() == once.text()


def test_statistics_name_the_rules() -> None:
    from zenith_mlir.context import PassContext
    from zenith_mlir.pipeline import Pipeline

    ctx = PassContext()
    Pipeline.parse("simplify").run(zenith.trace(lambda x: x * 1.0, ODD).clone(), ctx)
    assert ctx.statistics["drop_neutral_operand"] == 1


def test_large_unsigned_constants() -> None:
    with jax.enable_x64(True):
        x = jnp.arange(4, dtype=jnp.uint64)
        module = zenith.trace(lambda x: x * jnp.uint64(0x9E3779B97F4A7C15) + jnp.full(4, 2**63, jnp.uint64), x)
    simplified = module.run("prepare", target="cpu")
    for before, after in zip(module.compile("cpu")(x), simplified.compile("cpu")(x), strict=True):
        np.testing.assert_array_equal(np.asarray(before), np.asarray(after))


def test_dynamic_shapes_are_left_alone() -> None:
    text = """func.func @main(%a: tensor<?x4xf32>, %b: tensor<?x5xf32>) -> tensor<?x4x5xf32> {
      %0 = stablehlo.dot_general %a, %b, batching_dims = [0] x [0], contracting_dims = [] x []
        : (tensor<?x4xf32>, tensor<?x5xf32>) -> tensor<?x4x5xf32>
      return %0 : tensor<?x4x5xf32> }"""
    assert "dot_general" in zenith.Module.parse(text).run("prepare", target="cpu").text()


def test_marked_operations_keep_their_marks() -> None:
    text = """func.func @main(%a: tensor<4xf32>) -> tensor<4xf32> {
      %c = stablehlo.constant dense<1.0> : tensor<4xf32>
      %0 = stablehlo.multiply %a, %c {mhlo.frontend_attributes = {_note = "mine"}} : tensor<4xf32>
      return %0 : tensor<4xf32> }"""
    assert '_note = "mine"' in zenith.Module.parse(text).run("prepare", target="cpu").text()


def test_the_total_order_knows_negative_zero() -> None:
    text = """func.func @main() -> (tensor<i1>, tensor<i1>) {
      %a = stablehlo.constant dense<-0.0> : tensor<f32>
      %b = stablehlo.constant dense<0.0> : tensor<f32>
      %0 = stablehlo.compare LT, %a, %b, TOTALORDER : (tensor<f32>, tensor<f32>) -> tensor<i1>
      %1 = stablehlo.compare LT, %a, %b, FLOAT : (tensor<f32>, tensor<f32>) -> tensor<i1>
      return %0, %1 : tensor<i1>, tensor<i1> }"""
    simplified = zenith.Module.parse(text).run("simplify", target="cpu").text()
    assert simplified.count("stablehlo.compare") == 1 and "TOTALORDER" in simplified
