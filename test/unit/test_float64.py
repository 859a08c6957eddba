"""to_float64: the same mathematics in double precision, judged by JAX's own x64 mode and by exact values."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest

from zenith_mlir.errors import ZenithError
from zenith_mlir.ir.executable import compile_module
from zenith_mlir.ir.float64 import to_float64
from zenith_mlir.module import Module

pytestmark = pytest.mark.once


def in_float64(source: str | Module, *arrays: Any) -> list[np.ndarray]:
    module = Module.parse(source) if isinstance(source, str) else source
    judge = to_float64(module)
    assert judge.operation.verify()
    return [np.asarray(result) for result in compile_module(judge)(*arrays)]


def traced(function: Callable[..., Any], *arrays: Any) -> Module:
    return Module.parse(jax.jit(function).lower(*arrays).as_text())


def widened(array: Any) -> np.ndarray:
    array = np.asarray(array)
    if array.dtype.kind == "c":
        return array.astype(np.complex128)
    return array.astype(np.float64) if array.dtype.kind in "fV" else array


def normal(*shape: int, dtype: Any = np.float32) -> np.ndarray:
    return np.random.default_rng(0).standard_normal(shape).astype(dtype)


def conv_net(x: Any, w: Any) -> Any:
    y = jax.lax.conv_general_dilated(x, w, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))
    y = jax.lax.reduce_window(jax.nn.relu(y), -jnp.inf, jax.lax.max, (1, 2, 2, 1), (1, 2, 2, 1), "VALID")
    return (y**2).mean()


def loop(x: Any) -> Any:
    def body(carry: Any, row: Any) -> Any:
        carry = jnp.tanh(carry * 0.9 + row)
        return carry, carry.sum()

    carry, sums = jax.lax.scan(body, x[0], x)
    carry = jax.lax.while_loop(lambda c: c.max() < 10.0, lambda c: c * 1.5 + 0.1, jnp.abs(carry))
    return jax.lax.cond(sums[0] > 0, jnp.sin, jnp.cos, carry), sums


FUNCTIONS: dict[str, tuple[Callable[..., Any], tuple[Any, ...]]] = {
    "softmax": (lambda x: jax.nn.softmax(x, axis=-1), (normal(4, 9),)),
    "masked softmax": (
        lambda x, m: jax.nn.softmax(jnp.where(m, x, jnp.finfo(x.dtype).min), axis=-1),
        (normal(3, 5), np.array([[True] * 5, [False] * 5, [True, False, True, False, True]])),
    ),
    "loops and branches": (loop, (normal(6, 4),)),
    "gelu": (lambda x: jax.nn.gelu(x, approximate=False), (normal(32),)),
    "special functions": (
        lambda x: (jax.scipy.special.erfinv(jnp.tanh(x)), jax.lax.lgamma(x**2 + 1)),
        (normal(16),),
    ),
    "convolution and pooling, gradient": (
        jax.grad(conv_net, argnums=(0, 1)),
        (normal(2, 8, 8, 3), normal(3, 3, 3, 4)),
    ),
    "sort": (lambda x: (jnp.sort(x, axis=0), jnp.argsort(x, axis=1)), (normal(5, 6),)),
    "top k": (lambda x: jax.lax.top_k(x, 3), (normal(4, 9),)),
    "scatter": (lambda x, i: x.at[i].add(2.5 * x[0]), (normal(6, 3), np.array([1, 4, 1], np.int32))),
    "gather gradient": (
        jax.grad(lambda x, i: (x[i] ** 3).sum()),
        (normal(6, 3), np.array([1, 4, 1], np.int32)),
    ),
    "cumulative": (lambda x: (jnp.cumsum(x, 0), jax.lax.cummax(x, 1)), (normal(5, 7),)),
    "fourier": (lambda x: jnp.fft.rfft(x) * (1 + 2j), (normal(4, 16),)),
    "complex": (
        lambda z: (jnp.abs(z), z.conj() * z, jnp.exp(z)),
        (normal(8).astype(np.complex64) * (1 + 1j),),
    ),
    "linear algebra": (lambda x: jnp.linalg.cholesky(x @ x.T + 8 * jnp.eye(5)), (normal(5, 5),)),
    "iota and convert": (lambda x: x * jnp.arange(6, dtype=jnp.float32) + jnp.int32(3), (normal(6),)),
    "integers": (lambda i: (i * 3 // 2, i.astype(jnp.float32) / 7), (np.arange(5, dtype=np.int32),)),
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_agrees_with_jax_in_x64(name: str) -> None:
    function, arrays = FUNCTIONS[name]
    results = in_float64(traced(function, *arrays), *map(widened, arrays))
    with jax.enable_x64(True):
        expected = jax.tree.leaves(jax.jit(function)(*map(widened, arrays)))
    assert len(results) == len(expected)
    for got, want in zip(results, expected, strict=True):
        if want.dtype.kind in "fc":
            assert got.dtype in (np.float64, np.complex128)
            # Constants of the float32 program were rounded to float32: the two agree to that and no more.
            np.testing.assert_allclose(got, want, rtol=2e-6, atol=1e-6)
        else:
            np.testing.assert_array_equal(got, want)


def test_more_digits_than_the_original() -> None:
    x = normal(64, 64)
    (judge,) = in_float64(traced(lambda x: x @ x, x), widened(x))
    np.testing.assert_allclose(judge, x.astype(np.float64) @ x.astype(np.float64), rtol=1e-12)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float8_e4m3fn"])
def test_narrow_types_are_not_rounded(dtype: str) -> None:
    x, y = normal(8, dtype=dtype), normal(8, dtype=dtype)
    (judge,) = in_float64(traced(lambda x, y: (x * y + x).astype(jnp.float32), x, y), widened(x), widened(y))
    np.testing.assert_array_equal(judge, widened(x) * widened(y) + widened(x))


def test_no_narrow_float_is_left_but_in_constants() -> None:
    module = traced(jax.grad(lambda x: jax.nn.gelu(x.astype(jnp.bfloat16)).astype(jnp.float32).sum()), normal(4, 4))
    lines = [line for line in to_float64(module).text().splitlines() if re.search(r"x?(bf16|f32|f16)>", line)]
    assert all("stablehlo.constant" in line or "stablehlo.convert" in line for line in lines)


def test_constants_keep_their_exact_value() -> None:
    source = """func.func @main() -> (tensor<bf16>, tensor<3xf32>, tensor<f32>, tensor<2xf16>,
    tensor<complex<f32>>) {
      %0 = stablehlo.constant dense<0xFF7F> : tensor<bf16> %1 = stablehlo.constant dense<[0.1, 0xFF800000,
      0x7FC00000]> : tensor<3xf32> %2 = stablehlo.constant dense<-3.40282347E+38> : tensor<f32> %3 =
      stablehlo.constant dense<-6.550400e+04> : tensor<2xf16> %4 = stablehlo.constant dense<(0.1, -0.2)> :
      tensor<complex<f32>> return %0, %1, %2, %3, %4 : tensor<bf16>, tensor<3xf32>, tensor<f32>,
      tensor<2xf16>, tensor<complex<f32>>
    }"""
    lowest, mixed, lowest32, filled, number = in_float64(source)
    assert lowest == float(ml_dtypes.finfo("bfloat16").min)
    np.testing.assert_array_equal(mixed, np.array([np.float32(0.1), -np.inf, np.nan], np.float64))
    assert lowest32 == float(np.finfo(np.float32).min)
    np.testing.assert_array_equal(filled, [-65504.0, -65504.0])
    assert number == complex(float(np.float32(0.1)), float(np.float32(-0.2)))


def test_random_bits_are_the_same_bits() -> None:
    """jax.random.uniform builds floats from bits: in another width they would be other numbers."""
    key = np.array([1, 2], np.uint32)
    for draw in (lambda k: jax.random.uniform(k, (64,)), lambda k: jax.random.bernoulli(k, 0.3, (64,)) * 1.0):
        (judge,) = in_float64(traced(draw, key), key)
        np.testing.assert_array_equal(judge, np.asarray(jax.jit(draw)(key), np.float64))


def test_bits_of_a_float_are_those_of_its_own_width() -> None:
    x = normal(16)
    (judge,) = in_float64(traced(lambda x: jax.lax.bitcast_convert_type(x, jnp.uint32), x), widened(x))
    np.testing.assert_array_equal(judge, x.view(np.uint32))


def test_reduce_precision_and_narrowing_disappear() -> None:
    x = normal(16)

    def lossy(x: Any) -> Any:
        return jax.lax.reduce_precision(x, 5, 2).astype(jnp.bfloat16).astype(jnp.float32)

    (judge,) = in_float64(traced(lossy, x), widened(x))
    np.testing.assert_array_equal(judge, widened(x))


def test_dot_algorithm_is_dropped() -> None:
    x = normal(4, 4)
    module = traced(lambda x: jax.lax.dot(x, x, precision=jax.lax.DotAlgorithmPreset.BF16_BF16_F32), x)
    assert "algorithm" in module.text()
    (judge,) = in_float64(module, widened(x))
    np.testing.assert_allclose(judge, widened(x) @ widened(x), rtol=1e-14)


def test_composites_and_calls_are_followed() -> None:
    source = """
    func.func @main(%x: tensor<4xf32>) -> tensor<4xf32> {
      %0 = stablehlo.composite "my.third" %x {composite_attributes = {scale = 1.0 : f32}, decomposition =
      @third} : (tensor<4xf32>) -> tensor<4xf32> %1 = call @third(%0) : (tensor<4xf32>) -> tensor<4xf32>
      return %1 : tensor<4xf32>
    }
    func.func private @third(%x: tensor<4xf32>) -> tensor<4xf32> {
      %c = stablehlo.constant dense<3.0> : tensor<4xf32>
      %0 = stablehlo.divide %x, %c : tensor<4xf32>
      return %0 : tensor<4xf32>
    }"""
    x = normal(4)
    (judge,) = in_float64(source, widened(x))
    np.testing.assert_allclose(judge, widened(x) / 9, rtol=1e-14)


def test_foreign_code_keeps_its_types_and_placement_passes_through() -> None:
    source = """func.func @main(%x: tensor<4xf32>) -> (tensor<4xf32>, tensor<4xf32>) {
      %0 = stablehlo.custom_call @foreign(%x) : (tensor<4xf32>) -> tensor<4xf32>
      %1 = stablehlo.custom_call @Sharding(%x) : (tensor<4xf32>) -> tensor<4xf32>
      return %0, %1 : tensor<4xf32>, tensor<4xf32>
    }"""
    text = to_float64(Module.parse(source)).text()
    assert re.search(r"@foreign\(%\d+\).*\(tensor<4xf32>\) -> tensor<4xf32>", text)
    assert re.search(r"@Sharding\(%arg0\).*\(tensor<4xf64>\) -> tensor<4xf64>", text)


def test_function_shared_with_foreign_code_is_refused() -> None:
    source = """
    func.func @main(%x: tensor<f32>) -> (tensor<f32>, tensor<f32>) {
      %0 = stablehlo.custom_call @foreign(%x) {called_computations = [@f]} : (tensor<f32>) -> tensor<f32>
      %1 = call @f(%x) : (tensor<f32>) -> tensor<f32>
      return %0, %1 : tensor<f32>, tensor<f32>
    }
    func.func private @f(%x: tensor<f32>) -> tensor<f32> { return %x : tensor<f32> }"""
    with pytest.raises(ZenithError, match="@f is called here and by a custom call"):
        to_float64(Module.parse(source))


def test_index_arithmetic_keeps_its_choices() -> None:
    """10 * float32(0.7) rounds to 7 in float32 and is 6.9999998 in float64: the program means index 7."""
    x = normal(32)

    def pick(x: Any) -> Any:
        return x[(jnp.arange(20, dtype=jnp.float32) * 0.7).astype(jnp.int32)]

    (judge,) = in_float64(traced(pick, x), widened(x))
    np.testing.assert_array_equal(judge, np.asarray(jax.jit(pick)(x), np.float64))


def test_data_that_becomes_an_integer_is_judged_in_float64() -> None:
    x = np.full(3, 10, np.float32)
    (judge,) = in_float64(traced(lambda x: (x * 0.7).astype(jnp.int32), x), widened(x))
    np.testing.assert_array_equal(judge, 6)


def test_the_original_is_left_alone() -> None:
    module = traced(jnp.sin, normal(4))
    before = module.text()
    to_float64(module)
    assert module.text() == before
