"""Specialised modules compute what JAX computes at real sizes, and differ in nothing but sizes at witnesses."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import export, lax
from symbolic_sizes import spelled

import zenith_mlir as zenith
from zenith_mlir.errors import ZenithError
from zenith_mlir.ir.facts import walk_named
from zenith_mlir.onnx.dynamic import Expr, specialize
from zenith_mlir.onnx.dynamic.decoding import Decoder
from zenith_mlir.onnx.dynamic.expr import parse
from zenith_mlir.onnx.dynamic.witness import SMALL

SIZES = {"b": 2, "s": 6, "past": 3, "h": 9, "w": 7}
EVEN = {"b": 1, "s": 8, "past": 7, "h": 8, "w": 10}


def arguments(*shapes, constraints=("s>=4", "s<=16", "h>=4", "w>=4")):
    """ShapeDtypeStructs; integers where a shape starts with `i`."""
    scope = export.SymbolicScope(constraints)
    found = []
    for shape in shapes:
        dtype = jnp.int32 if shape.startswith("i ") else jnp.float32
        text = shape.removeprefix("i ")
        dims = export.symbolic_shape(text, scope=scope) if text else ()
        found.append(jax.ShapeDtypeStruct(dims, dtype))
    return found


def block(x, weights):
    """Attention under a causal mask, a layer norm and a gelu."""
    batch, length, width = x.shape
    q, k, v = jnp.split(x @ weights, 3, axis=-1)
    q, k, v = (t.reshape(batch, length, 2, width // 2) for t in (q, k, v))
    logits = jnp.einsum("bqhd,bkhd->bhqk", q, k) / 2.0
    causal = jnp.arange(length)[:, None] >= jnp.arange(length)[None, :]
    probabilities = jax.nn.softmax(jnp.where(causal, logits, -1e9), axis=-1)
    y = jnp.einsum("bhqk,bkhd->bqhd", probabilities, v).reshape(batch, length, width) + x
    y = (y - y.mean(-1, keepdims=True)) * lax.rsqrt(y.var(-1, keepdims=True) + 1e-6)
    return jax.nn.gelu(y)


def convolution(stride, padding):
    def fn(x, kernel):
        return lax.conv_general_dilated(x, kernel, (stride,) * 2, padding, dimension_numbers=("NHWC", "HWIO", "NHWC"))

    return fn


def pooled(x):
    x = lax.reduce_window(x, -jnp.inf, lax.max, (1, 3, 3, 1), (1, 2, 2, 1), "SAME")
    return lax.reduce_window(x, 0.0, lax.add, (1, 3, 3, 1), (1, 2, 2, 1), "SAME").mean((1, 2))


def summed_over_steps(x):
    def body(carry, step):
        return carry + step.sum() + jnp.arange(x.shape[1]).sum(), step * 2

    return lax.scan(body, 0.0, jnp.swapaxes(x, 0, 1))


def carried(x):
    return lax.fori_loop(0, 3, lambda i, c: c * 2 + x.mean(1, keepdims=True), x)


def masked(x):
    n = x.shape[0]
    return jnp.where(jnp.tril(jnp.ones((16, 16), bool))[:n, :n], x, 0)


CASES = {
    "transformer": (block, ["b, s, 8", "8, 24"]),
    "mean": (lambda x: x.mean(1), ["b, s, 8"]),
    "half": (lambda x: jnp.where(jnp.arange(x.shape[1]) < x.shape[1] // 2, x, 0), ["b, s"]),
    "positions": (lambda x, k: x + jnp.arange(x.shape[1]) + k.shape[1], ["b, s", "b, past"]),
    "conv valid": (convolution(2, "VALID"), ["b, h, w, 3", "3, 3, 3, 4"]),
    "conv same": (convolution(1, "SAME"), ["b, h, w, 3", "3, 3, 3, 4"]),
    "conv same of even and odd": (convolution(2, "SAME"), ["b, h, w, 3", "3, 3, 3, 4"]),
    "pool": (pooled, ["b, h, w, 3"]),
    "conv of a batch": (convolution(2, "SAME"), ["b, 9, 9, 3", "3, 3, 3, 4"]),
    "cache": (lambda k, new: jnp.concatenate([k, new], 1).sum(1), ["b, past, 8", "b, 1, 8"]),
    "merge and split": (lambda x, w: (x.reshape(-1, 8) @ w).reshape(*x.shape[:2], 3), ["b, s, 8", "8, 3"]),
    "pad": (lambda x: jnp.pad(x, ((0, 0), (1, x.shape[1] // 2))), ["b, s"]),
    "pad to a multiple": (lambda x: jnp.pad(x, ((0, 0), (0, -x.shape[1] % 4))), ["b, s"]),
    "flip": (lambda x: x[:, ::-1], ["b, s"]),
    "cumsum": (lambda x: jnp.cumsum(x, 1), ["b, s"]),
    "split": (lambda x: jnp.split(x, 2, 0), ["2*b, s"]),
    "gather": (lambda x, i: jnp.take_along_axis(x, i[..., None] % 6, 1), ["b, s, 8", "i b, s"]),
    "take": (lambda t, i: jnp.take(t, i, axis=0), ["11, 8", "i b, s"]),
    "index": (lambda x, i: x[jnp.arange(x.shape[0]), i[:, 0]], ["b, s, 8", "i b, s"]),
    "last": (lambda x: x[:, -1], ["b, s, 8"]),
    "first five at most": (lambda x: x[:, :5], ["b, past"]),
    "last five at most": (lambda x: x[:, -5:], ["b, past"]),
    "second half": (lambda x: x[:, x.shape[1] // 2 :], ["b, s"]),
    "dynamic slice": (lambda x, i: lax.dynamic_slice_in_dim(x, i[0], 2, 1), ["b, s", "i 1"]),
    "write": (lambda x, new: lax.dynamic_update_slice(x, new, (0, x.shape[1] - 1)), ["b, s", "b, 1"]),
    "symbolic carry": (carried, ["b, s, 4"]),
    "symbolic trip count": (summed_over_steps, ["b, s, 4"]),
    "top k": (lambda x: lax.top_k(x, 3), ["b, s"]),
    "sort and argmax": (lambda x: (jnp.sort(x, 1), jnp.argmax(x, 1)), ["b, s"]),
    "table": (lambda x, t: x + t[: x.shape[1]], ["b, s, 4", "16, 4"]),
    "mask of a table": (masked, ["s, s"]),
    "random": (lambda x: x + jax.random.uniform(jax.random.key(1), x.shape), ["b, s"]),
    "far constant": (lambda x: jnp.where(jnp.arange(x.shape[1]) < 5_000_000, x, 0), ["b, s"]),
}  # fmt: skip


@functools.cache
def traced(name):
    fn, shapes = CASES[name]
    return zenith.trace(fn, *arguments(*shapes))


@pytest.mark.parametrize("name", CASES)
def test_witnesses_make_no_difference(name):
    first, second = (specialize(traced(name), salt) for salt in (0, 1))
    assert not first.sizes.keys() & second.sizes.keys()
    assert set(first.sizes.values()) == set(second.sizes.values())
    assert spelled(first) == spelled(second)
    assert (first.scalars, first.symbols, first.inputs) == (second.scalars, second.symbols, second.inputs)
    assert not re.search(r"[<x]\?|dynamic_(reshape|broadcast|iota|gather|pad|conv)|get_dimension", first.module.text())
    for size, expr in first.sizes.items():
        assert first.decode(size) == expr
        assert abs(size) >= SMALL


@pytest.mark.parametrize(
    ("name", "sizes"),
    [
        *((name, SIZES) for name in CASES),
        *((name, EVEN) for name in ("conv same of even and odd", "pool", "pad to a multiple", "last five at most")),
    ],
)
def test_real_sizes_compute_what_jax_computes(name, sizes):
    fn, shapes = CASES[name]
    real = specialize(traced(name), at=sizes)
    random = np.random.default_rng(0)
    arrays = []
    for struct in arguments(*shapes):
        dims = [parse(str(dim)).evaluate(sizes) for dim in struct.shape]
        whole = struct.dtype == jnp.int32
        arrays.append(random.integers(0, 3, dims, np.int32) if whole else random.normal(size=dims).astype(np.float32))
    specs = real.module.input_specs
    inputs = arrays + [specs[i].dtype.type(expr.evaluate(sizes)) for i, expr in sorted(real.scalars.items())]
    for ours, theirs in zip(real.module.compile()(*inputs), jax.tree.leaves(jax.jit(fn)(*arrays)), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("name", "scalars"),
    [
        ("mean", {"s"}), ("half", {"floordiv(s, 2)"}), ("positions", {"past"}), ("last", {"s - 1"}),
        ("symbolic trip count", {"s"}), ("far constant", {"5000000"}), ("transformer", set()), ("conv valid", set()),
    ],
)  # fmt: skip
def test_values_of_sizes_are_arguments(name, scalars):
    found = specialize(traced(name))
    assert {str(expr) for expr in found.scalars.values()} == scalars
    constants = [str(op.attributes["value"]) for op in walk_named(found.module.operation, "stablehlo.constant")]
    assert not any(str(size) in constant for size in found.sizes for constant in constants)


def test_attention_of_a_symbolic_sequence_is_raised_as_causal():
    raised = [(s := specialize(traced("transformer"), salt), s.module.run("raise")) for salt in (0, 1)]
    first, second = (spelled(*each) for each in raised)
    assert first == second
    assert first.count('composite "zenith.attention"') == 1
    assert "causal = true" in first


def test_symbols_are_found_and_solved():
    cases = specialize(zenith.trace(lambda x, y: (x * 2, y), *arguments("b, s", "4*past + 1, b")))
    assert cases.symbols == {"arg1_dim0": [(1, 0)], "b": [(0, 0), (1, 1)], "past": [], "s": [(0, 1)]}
    assert cases.solved["past"].evaluate({"arg1_dim0": 13}) == 3
    assert [str(each) for each in cases.inputs[1]] == ["4*past + 1", "b"]


def test_a_symbol_that_no_input_tells_is_refused():
    with pytest.raises(ZenithError, match=r"h, w cannot be computed.*linear.*h\*w"):
        specialize(zenith.trace(lambda x: x * 2, *arguments("h*w")))


def test_merged_and_split_sizes_are_decoded():
    found = specialize(zenith.trace(lambda x: x * 2.0, *arguments("b, s, 12")))
    size = {str(expr): number for number, expr in found.sizes.items()}
    assert str(found.decode(12 * size["b"] * size["s"])) == "12*b*s"
    assert found.decode(12 * size["b"] * size["s"] // size["s"]) == 12 * Expr.symbol("b")
    assert str(found.decode(size["s"] + size["b"])) == "s + b"
    assert str(found.decode(size["s"] + 1)) == "s + 1"
    assert found.decode(12) == 12
    assert found.decode(144) == 144
    with pytest.raises(ZenithError, match="cannot be told: it is no product"):
        found.decode(size["s"] * 7919 + 100_003)


def test_more_than_one_meaning_is_refused():
    b, s, t = map(Expr.symbol, "bst")
    decode = Decoder({200_003: b, 300_007: s, 500_003: t}, [8])
    assert decode(300_007 * 8) == 8 * s
    with pytest.raises(ZenithError, match=r"cannot be told: it can be (t \+ 7 or s \+ b|s \+ b or t \+ 7)"):
        decode(500_010)


def test_modules_of_jax_export_keep_their_names():
    fn = jax.jit(lambda x, k: (x + jnp.arange(x.shape[1]), k.reshape(-1, 2).mean(0)))
    blob = export.export(fn)(*arguments("b, s", "2*b, past", constraints=())).serialize()
    found = specialize(zenith.load(bytes(blob)))
    assert found.symbols == {"b": [(0, 0)], "past": [(1, 1)], "s": [(0, 1)]}
    assert [str(size) for size in found.inputs[1]] == ["2*b", "past"]
    assert [str(expr) for expr in found.scalars.values()] == ["b*past"]


def test_text_with_unknown_sizes_names_them_after_their_place():
    found = specialize(
        zenith.load("""
func.func @main(%a: tensor<?x8xf32>, %b: tensor<?x?xf32>, %c: tensor<2x?xf32>) -> (tensor<?x?xf32>, tensor<i32>) {
  %0 = stablehlo.add %a, %b : (tensor<?x8xf32>, tensor<?x?xf32>) -> tensor<?x?xf32>
  %1 = stablehlo.concatenate %0, %c, dim = 0 : (tensor<?x?xf32>, tensor<2x?xf32>) -> tensor<?x?xf32>
  %2 = stablehlo.get_dimension_size %1, dim = 0 : (tensor<?x?xf32>) -> tensor<i32>
  return %1, %2 : tensor<?x?xf32>, tensor<i32> }""")
    )
    assert found.symbols == {"arg0_dim0": [(0, 0), (1, 0)]}
    assert found.inputs[2] == (2, 8)
    assert {i: str(expr) for i, expr in found.scalars.items()} == {3: "arg0_dim0 + 2"}


def test_sizes_that_depend_on_data_are_refused_with_the_place():
    text = """
func.func @main(%n: tensor<1xi32>) -> tensor<?xi32> {
  %0 = stablehlo.dynamic_iota %n, dim = 0 : (tensor<1xi32>) -> tensor<?xi32> loc("model.py":7:3)
  return %0 : tensor<?xi32> }"""
    with pytest.raises(ZenithError, match=r"model\.py:7: stablehlo.dynamic_iota makes a shape of numbers"):
        specialize(zenith.load(text))


def test_a_promised_multiple_is_kept():
    fn = lambda x: x.reshape(x.shape[0] // 4, 4, 8).sum(1)  # noqa: E731
    found = specialize(zenith.trace(fn, *arguments("s, 8", constraints=["mod(s, 4) == 0"])))
    assert "floordiv(s, 4)" in map(str, found.sizes.values())
    assert all(size % 4 == 0 for size, expr in found.sizes.items() if str(expr) == "s")
    assert found.assumed


def test_a_module_without_symbols_stays():
    found = specialize(zenith.trace(lambda x: x * 2.0, jax.ShapeDtypeStruct((3, 4), jnp.float32)))
    assert not found.sizes and not found.symbols and not found.scalars
    assert found.decode(4) == 4
