"""Traced patterns: a function matches what it would have become itself, at every size, rank and type."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jaxlib.mlir import ir

import zenith_mlir as zenith
from zenith_mlir.ir.facts import walk, walk_named
from zenith_mlir.match import ops as m
from zenith_mlir.match.sizes import ArgumentType, Constant, Product, read_constant, read_size
from zenith_mlir.match.traced import Traced, traced


def program(function: Callable[..., Any], *shapes: tuple[int, ...], dtype: str = "float32") -> zenith.Module:
    specs = [jax.ShapeDtypeStruct(shape, dtype) for shape in shapes]
    return zenith.trace(function, *specs).run("prepare", target="cpu")


def found_in(module: zenith.Module, pattern: m.Matcher) -> m.Match | m.Miss:
    """The match of what `main` returns."""
    (returned,) = walk_named(module.operation, "func.return")
    return m.match(returned.operands[0], pattern)


def matched(module: zenith.Module, pattern: m.Matcher) -> m.Match:
    found = found_in(module, pattern)
    assert isinstance(found, m.Match), found
    return found


def missed(module: zenith.Module, pattern: m.Matcher) -> m.Miss:
    found = found_in(module, pattern)
    assert isinstance(found, m.Miss), found
    return found


def argument(module: zenith.Module, number: int) -> ir.Value:
    (main,) = walk_named(module.operation, "func.func")
    return main.regions[0].blocks[0].arguments[number]


def rms(x: jax.Array, scale: jax.Array, eps: float) -> jax.Array:
    return x * jax.lax.rsqrt(jnp.mean(x * x, -1, keepdims=True) + eps) * scale


@pytest.fixture(scope="module")
def rms_norm() -> Traced:
    return traced(rms, x="*b n", scale="n", eps="")


# ---- What matches ----


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize("shape", [(512,), (4, 8), (2, 3, 8), (8, 8, 8, 8)])
def test_every_size_rank_and_float_type(rms_norm: Traced, shape: tuple[int, ...], dtype: str) -> None:
    module = program(lambda x, scale: rms(x, scale, 1e-5), shape, shape[-1:], dtype=dtype)
    found = matched(module, rms_norm)
    assert found["x"] == argument(module, 0)
    assert found["scale"] == argument(module, 1)
    assert found.sizes == {"b": shape[:-1], "n": shape[-1]}
    assert found.numbers["eps"] == float(jnp.asarray(1e-5, dtype))


def test_a_spelling_with_operands_swapped(rms_norm: Traced) -> None:
    def swapped(x: jax.Array, scale: jax.Array) -> jax.Array:
        inverse = jax.lax.rsqrt(1e-6 + jnp.sum(x * x, -1, keepdims=True) / x.shape[-1])
        return scale * (inverse * x)

    assert matched(program(swapped, (4, 8), (8,)), rms_norm).sizes["n"] == 8


def test_a_scalar_may_be_an_array_too(rms_norm: Traced) -> None:
    module = program(rms, (4, 8), (8,), ())
    found = matched(module, rms_norm)
    assert found["eps"] == argument(module, 2)
    assert not found.numbers


def test_inside_of_a_larger_program(rms_norm: Traced) -> None:
    def layer(x: jax.Array, scale: jax.Array, w: jax.Array) -> jax.Array:
        return jnp.tanh(rms(x @ w, scale, 1e-5)) + x

    module = program(layer, (4, 8), (8,), (8, 8))
    sites = [found for op in walk(module.operation) if op.results and (found := m.match(op, rms_norm))]
    assert [site["x"].owner.operation.name for site in sites if isinstance(site, m.Match)] == ["stablehlo.dot_general"]


def test_softmax_and_private_functions() -> None:
    pattern = traced(lambda x: jax.nn.softmax(x, axis=-1), x="*b n")
    assert matched(program(lambda x: jax.nn.softmax(x), (3, 5, 7)), pattern).sizes == {"b": (3, 5), "n": 7}
    missed(program(lambda x: jax.nn.softmax(x, axis=0), (5, 7)), pattern)


def test_products_of_dimensions() -> None:
    pattern = traced(lambda x: jnp.tanh(x.reshape(x.shape[0], -1)), x="b h d")
    assert matched(program(lambda x: jnp.tanh(x.reshape(4, 6)), (4, 2, 3)), pattern).sizes == {
        "b": 4,
        "h": 2,
        "d": 3,
    }
    missed(program(lambda x: jnp.tanh(x.reshape(2, 12)), (4, 2, 3)), pattern)


def test_matmul_with_one_dimension_twice() -> None:
    pattern = traced(lambda a, b: jnp.tanh(a @ b), a="n k", b="k n")
    assert matched(program(lambda a, b: jnp.tanh(a @ b), (4, 8), (8, 4)), pattern).sizes == {"n": 4, "k": 8}
    miss = missed(program(lambda a, b: jnp.tanh(a @ b), (4, 8), (8, 5)), pattern)
    assert miss.reason == "n is 5 in b and 4 elsewhere"


def test_literal_dimensions_and_written_types() -> None:
    pattern = traced(lambda x: jnp.tanh(x).astype(jnp.float32), x="bf16[b 8]")

    def convert(x: jax.Array) -> jax.Array:
        return jnp.tanh(x).astype(jnp.float32)

    matched(program(convert, (3, 8), dtype="bfloat16"), pattern)
    assert missed(program(convert, (3, 9), dtype="bfloat16"), pattern).reason == "8 is 9 in x"
    missed(program(convert, (3, 8), dtype="float16"), pattern)


def test_traced_patterns_combine_with_op_matchers(rms_norm: Traced) -> None:
    module = program(lambda x, scale: rms(jnp.tanh(x), scale, 1e-5) + rms(x, scale, 1e-6), (4, 8), (8,))
    inner = traced(lambda y, s, e: rms(y, s, e), y="b n", s="n", e="")
    found = matched(module, m.add(rms_norm, inner))
    assert {found.numbers["eps"], found.numbers["e"]} == {float(jnp.float32(1e-5)), float(jnp.float32(1e-6))}
    assert matched(module, m.add(rms_norm, m.any("rest")))


# ---- What nearly matches ----


def variant(mean: float = 1.0, eps: float = 1e-5, function: Callable[..., Any] = jax.lax.rsqrt) -> Callable[..., Any]:
    return lambda x, scale: x * function(jnp.sum(x * x, -1, keepdims=True) / mean + eps) * scale


def test_a_constant_that_should_be_a_size(rms_norm: Traced) -> None:
    matched(program(variant(mean=8), (4, 8), (8,)), rms_norm)
    miss = missed(program(variant(mean=9), (4, 8), (8,)), rms_norm)
    assert miss.reason == "a constant is 9 where the pattern has n = 8"
    assert miss.is_near


def test_another_operation_deep_inside(rms_norm: Traced) -> None:
    miss = missed(program(variant(mean=8, function=jnp.sqrt), (4, 8), (8,)), rms_norm)
    assert miss.reason.endswith("is a sqrt, not a rsqrt")


def test_another_value_where_one_is_used_twice(rms_norm: Traced) -> None:
    def mixed(x: jax.Array, scale: jax.Array) -> jax.Array:
        y = jnp.tanh(x)
        return y * jax.lax.rsqrt(jnp.mean(x * x, -1, keepdims=True) + 1e-5) * scale

    assert "x stands for two different values" in missed(program(mixed, (4, 8), (8,)), rms_norm).reason


def test_another_operation_where_one_is_used_twice() -> None:
    def normalised(x: jax.Array, of: Callable[..., Any]) -> jax.Array:
        return jnp.exp(x) / jnp.sum(of(x), -1, keepdims=True)

    pattern = traced(lambda x: normalised(x, jnp.exp), x="b n")
    matched(program(lambda x: normalised(x, jnp.exp), (4, 8)), pattern)
    miss = missed(program(lambda x: normalised(x, jnp.tanh), (4, 8)), pattern)
    assert miss.reason == "operand 1 of reduce is a tanh, not the one that the pattern uses twice"


def test_two_numbers_where_a_scalar_is_used_twice() -> None:
    pattern = traced(lambda x, c: jnp.tanh(x * c) + c, x="b n", c="")
    assert matched(program(lambda x: jnp.tanh(x * 2) + 2, (4, 8)), pattern).numbers == {"c": 2.0}
    assert missed(program(lambda x: jnp.tanh(x * 2) + 3, (4, 8)), pattern).reason.startswith("c stands for two")


def test_an_attribute_that_differs() -> None:
    pattern = traced(lambda a, b: jnp.tanh(a @ b), a="n k", b="k m")
    exact = program(lambda a, b: jnp.tanh(jnp.matmul(a, b, precision="highest")), (4, 8), (8, 5))
    assert "precision_config of dot_general" in missed(exact, pattern).reason
    transposed = program(lambda a, b: jnp.tanh(jax.lax.dot_general(a, b, (((1,), (1,)), ((), ())))), (4, 8), (8, 8))
    assert "dot_dimension_numbers of dot_general" in missed(transposed, pattern).reason


def test_a_reduction_along_another_dimension_or_by_another_function() -> None:
    pattern = traced(lambda x: jnp.tanh(jnp.sum(x, -1)), x="b n")
    matched(program(lambda x: jnp.tanh(jnp.sum(x, 1)), (6, 6)), pattern)
    assert (
        "dimensions of reduce is [0], not [1]"
        in missed(program(lambda x: jnp.tanh(jnp.sum(x, 0)), (6, 6)), pattern).reason
    )
    assert "applies another function" in missed(program(lambda x: jnp.tanh(jnp.max(x, 1)), (6, 6)), pattern).reason


def test_precision_spelled_out_is_precision_left_away() -> None:
    """Other writers of StableHLO leave away what JAX spells out."""
    pattern = traced(lambda a, b: jnp.tanh(a @ b), a="n k", b="k m")
    module = zenith.Module.parse(
        "func.func @main(%a: tensor<4x8xf32>, %b: tensor<8x5xf32>) -> tensor<4x5xf32> {"
        "%0 = stablehlo.dot_general %a, %b, contracting_dims = [1] x [0]"
        " : (tensor<4x8xf32>, tensor<8x5xf32>) -> tensor<4x5xf32>"
        "%1 = stablehlo.tanh %0 : tensor<4x5xf32> return %1 : tensor<4x5xf32> }"
    )
    matched(module, pattern)


def test_dynamic_shapes_do_not_match() -> None:
    module = zenith.Module.parse(
        "func.func @main(%a: tensor<?xf32>) -> tensor<?xf32> {"
        "%0 = stablehlo.tanh %a : tensor<?xf32> %1 = stablehlo.negate %0 : tensor<?xf32>"
        " return %1 : tensor<?xf32> }"
    )
    missed(module, traced(lambda x: -jnp.tanh(x), x="n"))


# ---- What is refused at definition ----


@pytest.mark.parametrize(
    ("function", "dims", "message"),
    [
        (lambda x: x, {"x": "b n"}, "returns its argument"),
        (lambda x: (x + 1, x), {"x": "b n"}, "returns 2 arrays"),
        (lambda x, y: x + 1, {"x": "b n", "y": "n"}, "does not use y"),
        (lambda x: x + 1, {"y": "b n"}, "takes x, but dimensions are given for y"),
        (lambda x: x + 1, {}, "given for nothing"),
        (lambda x: x + 1, {"x": "b n/2"}, "cannot read the dimensions 'b n/2'"),
        (lambda x: x + 1, {"x": "*a *b"}, "two dimensions with a star"),
        (lambda x, y: x + y, {"x": "*a n", "y": "*b n"}, r"cannot be traced|several dimensions with a star"),
        (lambda x: x + 1, {"x": "float[b]"}, "element type 'float'"),
        (lambda x: jnp.sum(x), {"x": "*b"}, r"\*b is not in the result"),
        (lambda x: jnp.argmax(x, -1), {"x": "b n"}, 'gives i32 for f32.*"f32'),
        (lambda x: x[: x.shape[0] // 2] + 1, {"x": "n"}, "for all sizes.*15 in one and 41 in the other"),
        (lambda x: x + np.array([1.0, 2.0, 4.0], "float32"), {"x": "b 3"}, "constant that is not one number"),
        (lambda x: x * (x.shape[0] ** 3), {"x": "n"}, "not one program for all sizes.*a constant"),
        (lambda x: jax.lax.fori_loop(0, 3, lambda i, y: y * x, x), {"x": "n"}, "holds a while; a pattern is"),
        (lambda x: x @ x, {"x": "b n"}, "cannot be traced with x: float32"),
        (lambda x: sum(x[i] for i in range(x.shape[0])), {"x": "n"}, "for all sizes|cannot be traced"),
    ],
)  # fmt: skip
def test_what_no_pattern_can_be_made_of(function: Callable[..., Any], dims: dict[str, str], message: str) -> None:
    with pytest.raises(m.PatternError, match=message):
        traced(function, **dims)


def test_a_pipeline_bound_around_the_definition_does_not_change_it() -> None:
    with zenith.pipeline("prepare,raise-attention", strict=True):
        pattern = traced(lambda q, k, v: jax.nn.softmax(q @ k.T, -1) @ v, q="s d", k="t d", v="t d")
    matched(program(lambda q, k, v: jax.nn.softmax(q @ k.T, -1) @ v, (256, 64), (256, 64), (256, 64)), pattern)


# ---- Reading sizes ----

SIZES = ({"b": 31, "n": 37}, {"b": 83, "n": 89})


def test_dimension_strings() -> None:
    assert ArgumentType.parse("*b 8 n") == ArgumentType(None, ("*b", 8, "n"))
    assert ArgumentType.parse(" bf16[b n] ") == ArgumentType("bf16", ("b", "n"))
    assert ArgumentType.parse("") == ArgumentType(None, ())
    assert ArgumentType.parse("i32[]") == ArgumentType("i32", ())
    assert ArgumentType.parse("*b n").expanded(2).dims == ("b[0]", "b[1]", "n")


@pytest.mark.parametrize(
    ("numbers", "product"),
    [
        ((8, 8), Product(8)),
        ((37, 89), Product(1, ("n",))),
        ((31 * 37 * 2, 83 * 89 * 2), Product(2, ("b", "n"))),
        ((37 * 37, 89 * 89), Product(1, ("n", "n"))),
        ((31, 89), None),
        ((18, 44), None),
        ((38, 90), None),
    ],
)
def test_sizes_are_told_from_literals(numbers: tuple[int, int], product: Product | None) -> None:
    assert read_size(numbers, SIZES) == product


@pytest.mark.parametrize(
    ("of_n", "constant"),
    [
        (lambda n: 0.5, Constant(0.5)),
        (lambda n: n, Constant(1, "", Product(1, ("n",)))),
        (lambda n: 1 / n, Constant(1, "reciprocal", Product(1, ("n",)))),
        (lambda n: 2 / n, Constant(2, "reciprocal", Product(1, ("n",)))),
        (lambda n: n**-0.5, Constant(1, "reciprocal square root", Product(1, ("n",)))),
        (lambda n: n - 1, Constant(1, "predecessor", Product(1, ("n",)))),
        (lambda n: n**3, None),
        (lambda n: n + 0.5, None),
    ],
)
def test_constants_as_functions_of_a_size(of_n: Callable[[int], float], constant: Constant | None) -> None:
    for dtype in (jnp.float32, jnp.bfloat16):
        numbers = tuple(float(jnp.asarray(of_n(sizes["n"]), dtype)) for sizes in SIZES)
        found = read_constant((numbers[0], numbers[1]), jnp.dtype(dtype), SIZES)
        assert found == constant or (dtype is jnp.bfloat16 and found is None)


def test_a_constant_that_two_functions_explain_is_refused() -> None:
    """In bfloat16 the reciprocals of 31 · 37 and 31 · 37 - 1 are one number."""
    numbers = tuple(float(jnp.bfloat16(1 / (sizes["b"] * sizes["n"]))) for sizes in SIZES)
    assert read_constant((numbers[0], numbers[1]), jnp.dtype("bfloat16"), SIZES) is None
