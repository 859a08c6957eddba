"""From functions to modules: names, weights, symbolic sizes, and what is said of bad input."""

from __future__ import annotations

import functools
import re
import subprocess
import sys
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import zenith_mlir as zenith
from zenith_mlir.errors import ZenithError
from zenith_mlir.ir.signature import main_function
from zenith_mlir.onnx.source import Source, trace_model

pytestmark = pytest.mark.once

RNG = np.random.default_rng(0)
X = jnp.asarray(RNG.standard_normal((2, 8)), jnp.float32)
W = jnp.asarray(RNG.standard_normal((8, 8)), jnp.float32)
TOKENS = jnp.ones((2, 5), jnp.int32)


def run(source: Source, *arrays: Any) -> tuple[jax.Array, ...]:
    return source.module.compile()(*[each.numpy() for each in source.parameters], *arrays)


def names(source: Source) -> tuple[list[str], list[str], list[str]]:
    return (
        [each.name for each in source.parameters],
        [each.name for each in source.inputs],
        list(source.outputs),
    )


def types(source: Source) -> list[str]:
    """The types of main's arguments behind the sizes of symbols."""
    arguments = main_function(source.module.ir).regions[0].blocks[0].arguments
    first = min(each.index for each in (*source.parameters, *source.inputs))
    return [str(argument.type).removeprefix("tensor<").removesuffix(">") for argument in arguments][first:]


def test_importing_does_not_load_jax() -> None:
    code = "import sys, zenith_mlir.onnx.source; assert not {'jax', 'jaxlib', 'flax'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


# ---- Weights ----


def test_params_are_the_first_arguments_and_inputs_follow() -> None:
    params = {"b": np.ones(8, np.float32), "a": {"w": W}, "depth": 2, "act": jnp.tanh}

    def model(params: Any, x: jax.Array, scale: float) -> jax.Array:
        for _ in range(params["depth"]):
            x = params["act"](x @ params["a"]["w"] + params["b"])
        return x * scale

    source = trace_model(model, (X, 2.0), params=params)
    assert names(source) == (["a.w", "b"], ["x", "scale"], ["output"])
    assert [each.index for each in (*source.parameters, *source.inputs)] == [0, 1, 2, 3]
    assert types(source) == ["8x8xf32", "8xf32", "2x8xf32", "f32"]
    np.testing.assert_allclose(run(source, X, 2.0)[0], model(params, X, 2.0), rtol=1e-5)


def test_arrays_that_a_function_closes_over_are_weights_and_masks_are_not() -> None:
    layers = [{"kernel": W, "bias": W[0]}, {"kernel": W.T + 0, "bias": W[1]}]
    mask = np.tril(np.ones((8, 8), bool))

    @jax.jit
    def dense(x: jax.Array, i: int) -> jax.Array:
        return jnp.where(mask, x @ (layers[0]["kernel"] + layers[1]["kernel"]), layers[0]["bias"]) * i

    def model(x: jax.Array) -> jax.Array:
        return jax.lax.fori_loop(0, 2, lambda i, y: dense(y, i), x)

    x = jnp.eye(8)
    source = trace_model(jax.jit(model), (x,))
    assert names(source) == (["dense.layers.0.kernel", "dense.layers.1.kernel"], ["x"], ["output"])
    assert source.parameters[0].array is W
    dense_constants = re.findall(r"stablehlo.constant dense<[\[\"].*: tensor<(.*)>", source.module.text())
    assert sorted(dense_constants) == ["8x8xi1", "8xf32"]
    np.testing.assert_allclose(run(source, x)[0], model(x), rtol=1e-5)


def test_an_object_that_can_be_called_names_what_it_refers_to() -> None:
    class Model:
        def __init__(self) -> None:
            self.layers = [W + 1]

        def __call__(self, x: jax.Array) -> jax.Array:
            return self.score(x @ self.layers[0] @ W)

        def score(self, x: jax.Array) -> jax.Array:
            return x @ self.layers[0]

    assert names(trace_model(Model(), (X,)))[0] == ["layers.0", "W"]
    assert names(trace_model(Model().score, (X,)))[0] == ["layers.0"]


def test_what_a_partial_binds_is_part_of_the_model() -> None:
    def model(weights: Any, x: jax.Array, mode: str = "sum", train: bool = True) -> jax.Array:
        return x @ weights["w"] if train or mode != "mean" else (x @ weights["w"]).mean(0)

    source = trace_model(functools.partial(model, {"w": W}, mode="mean", train=False), (X,))
    assert names(source) == (["weights.w"], ["x"], ["output"])
    np.testing.assert_allclose(run(source, X)[0], (X @ W).mean(0), rtol=1e-5, atol=1e-6)
    source = trace_model(functools.partial(model, mode="mean", train=False), (X,), params={"w": W})
    assert names(source) == (["w"], ["x"], ["output"])


def test_a_parameter_is_numpy_without_a_copy_and_in_the_dtype_of_main() -> None:
    wide, narrow = np.ones((4, 4)), np.ones((4, 4), np.float32)
    key, half = jax.random.key(0), jnp.ones(4, jnp.bfloat16)
    shape = jax.ShapeDtypeStruct((4,), jnp.float32)
    params = {"wide": wide, "narrow": narrow, "key": key, "half": half, "shape": shape}

    def model(p: Any, x: jax.Array) -> Any:
        return x + p["wide"] + p["narrow"] + p["shape"] + p["half"] + jax.random.uniform(p["key"])

    source = trace_model(model, (narrow,), params=params)
    by_name = {each.name: each for each in source.parameters}
    assert by_name["narrow"].numpy() is narrow
    assert by_name["wide"].numpy().dtype == by_name["wide"].dtype == np.float32
    assert np.shares_memory(by_name["half"].numpy(), np.asarray(half)) and by_name["half"].dtype == jnp.bfloat16
    np.testing.assert_array_equal(by_name["key"].numpy(), jax.random.key_data(key))
    assert by_name["key"].shape == (2,) and by_name["key"].dtype == np.uint32
    assert [str(each.dtype) for each in source.module.input_specs] == [
        str(each.dtype) for each in (*source.parameters, by_name["narrow"])
    ]
    assert not by_name["shape"].has_value
    with pytest.raises(ZenithError, match=r'the parameter shape has a shape, \(4,\), but no value; .*weights="input"'):
        by_name["shape"].numpy()
    assert "draws random numbers from key" in source.notes[0] and len(source.notes) == 1


def test_the_ambient_pipeline_is_not_applied() -> None:
    def gelu(x: jax.Array) -> jax.Array:
        return jax.nn.gelu(x)

    with zenith.pipeline("raise-activation"):
        assert "zenith.gelu" in jax.jit(gelu).lower(X).as_text()
        assert "zenith.gelu" not in trace_model(gelu, (X,)).module.text()


@pytest.mark.parametrize("weight", [None, W])
def test_locations_are_the_lines_of_the_user(weight: Any) -> None:
    source = trace_model(lambda x: jnp.tanh(x @ weight) if weight is not None else jnp.tanh(x), (X,))
    text = source.module.text(debug_info=True)
    assert "test_onnx_source.py" in text and "onnx/source/" not in text


# ---- Names ----


class Result(NamedTuple):
    logits: jax.Array
    cache: Any


def test_names_of_inputs_and_outputs_come_from_signatures_and_pytrees() -> None:
    def model(x: jax.Array, *rest: jax.Array, mask: Any, **options: jax.Array) -> Any:
        return {"y z": x, "w": [rest[0], rest[1] + mask["a"]], **options}

    source = trace_model(model, (X, X, X), kwargs={"mask": {"a": X, "b": X}, "extra": X})
    inputs = ["x", "rest_0", "rest_1", "mask.a", "mask.b", "extra"]
    assert names(source) == ([], inputs, ["new_extra", "w.0", "w.1", "y_z"])
    assert len(types(source)) == len(inputs)


def test_caches_that_are_handed_on() -> None:
    def decode(token: jax.Array, past_key_values: Any, cache: Any) -> Any:
        new = jax.tree.map(lambda c: c.at[0].set(token[0]), (past_key_values, cache))
        return {"logits": token * 2, "past_key_values": new[0], "cache": new[1]}

    past = [{"key": X, "value": X}]
    source = trace_model(decode, (X, past, {"k": X}))
    assert [each.name for each in source.inputs] == [
        "token", "past_key_values.0.key", "past_key_values.0.value", "cache.k",
    ]  # fmt: skip
    assert source.outputs == ("new_cache.k", "logits", "present.0.key", "present.0.value")
    tuples = trace_model(lambda t, c: (t, c), (X, past))
    assert tuples.outputs == ("output_0", "output_1.0.key", "output_1.0.value")
    assert trace_model(lambda t, c: Result(t, c), (X, past)).outputs == ("logits", "cache.0.key", "cache.0.value")


def test_names_given_for_arrays_or_for_arguments() -> None:
    past = [{"key": X, "value": X}]

    def decode(t: jax.Array, c: Any) -> Any:
        return t, c

    source = trace_model(decode, (X, past), input_names=["token", "past"], output_names=["logits", "present"])
    assert names(source) == (
        [], ["token", "past.0.key", "past.0.value"], ["logits", "present.0.key", "present.0.value"],
    )  # fmt: skip
    source = trace_model(decode, (X, past), input_names=["a", "b", "c"], output_names=["d", "e", "f"])
    assert names(source) == ([], ["a", "b", "c"], ["d", "e", "f"])


def test_names_are_unique_in_the_graph() -> None:
    source = trace_model(lambda p, x: {"w": x * p["x"] + p["w"]}, (X,), params={"x": X, "w": X, "w_1": X})
    assert names(source) == (["w_1", "w_1_1", "x_1"], ["x"], ["w"])


# ---- Symbolic sizes ----


def embed(table: jax.Array, tokens: jax.Array, mask: Any) -> jax.Array:
    return table[tokens] * mask["m"][..., None]


FORMS: list[Any] = [
    {"tokens": "batch, seq", "mask.m": "batch, seq"},
    {"tokens": {0: "batch", 1: "seq"}, "mask": {0: "batch", -1: "seq"}},
    {0: ("batch", "seq"), 1: "(batch, seq)"},
    ["batch, seq", "batch, seq"],
    "batch, seq",
]


@pytest.mark.parametrize("dynamic", FORMS, ids=str)
def test_forms_of_dynamic_are_one_program(dynamic: Any) -> None:
    source = trace_model(embed, (TOKENS, {"m": np.ones((2, 5), np.float32)}), params=W, dynamic=dynamic)
    assert types(source) == ["8x8xf32", "?x?xi32", "?x?xf32"]
    assert names(source) == (["params"], ["tokens", "mask.m"], ["output"])


def test_sizes_of_symbols_come_first_and_are_not_counted_in_the_names() -> None:
    def model(x: jax.Array) -> jax.Array:
        return jnp.tanh(x @ W).reshape(-1, 4)

    source = trace_model(model, (jnp.ones((2, 3, 8)),), dynamic={"x": "batch, ..., _"})
    text = source.module.text()
    assert '%arg0: tensor<i32> {jax.global_constant = "batch"}, %arg1: tensor<8x8xf32>' in text
    assert (source.parameters[0].index, source.parameters[0].name) == (1, "W")
    assert (source.inputs[0].index, source.inputs[0].name) == (2, "x")


def test_symbols_of_the_user_and_constraints() -> None:
    batch, size = jax.export.symbolic_shape("b, n", constraints=("n >= 4",))
    source = trace_model(lambda x, y: x[:, :4] + y, (jax.ShapeDtypeStruct((batch, size), jnp.float32), X[:, :4]),
                         dynamic={"y": "b, _"})  # fmt: skip
    assert types(source)[-2:] == ["?x?xf32", "?x4xf32"]
    source = trace_model(lambda x: x if x.shape[1] >= 4 else x * 2, (X,), dynamic=["b, n"],
                         dynamic_constraints=("n >= 4",))  # fmt: skip
    assert types(source)[-1] == "?x?xf32"


# ---- Bad input ----


def add(x: jax.Array, y: jax.Array) -> jax.Array:
    return x + y


def branch(x: jax.Array, flag: bool) -> jax.Array:
    return x if flag else -x


@functools.partial(jax.jit, static_argnames="n")
def power(x: jax.Array, n: int) -> jax.Array:
    return x**n


def short(x: jax.Array) -> jax.Array:
    return x if x.shape[1] < 100 else x[:, :100]


BAD: list[tuple[str, Callable[[], Any]]] = [
    (r"a function or a model that can be called is expected, not int 3", lambda: trace_model(3, ())),
    (r"args is the tuple of the model's arguments, not ArrayImpl; write \(x,\)", lambda: trace_model(add, X)),
    (r"args is the tuple .*, not dict; give arguments by name as kwargs=", lambda: trace_model(add, {"x": X})),
    (r"add\(x, y\) does not take these arguments, 1 by position: .*'y'", lambda: trace_model(add, (X,))),
    (r"argument y is builtins.str, no array .*functools.partial", lambda: trace_model(add, (X, "a"))),
    (r"branch needs the value of an input .*functools.partial", lambda: trace_model(branch, (X, True))),
    (r"an argument of power is static for jax.jit.*functools.partial", lambda: trace_model(power, (X, 3))),
    (r"returns no array", lambda: trace_model(lambda x: None, (X,))),
    (r"functools.partial binds what add\(x, y\) does not take: .*'z'",
     lambda: trace_model(functools.partial(add, z=1), (X,))),
    (r"input_names has 1 names, \['a'\]; 2 names are expected, for x, y",
     lambda: trace_model(add, (X, X), input_names=["a"])),
    (r"input_names has 'a' twice", lambda: trace_model(add, (X, X), input_names=["a", "a"])),
    (r"input_names is a list of names", lambda: trace_model(add, (X, X), input_names="xy")),
    (r"output_names has 'x', which is the name of an input", lambda: trace_model(add, (X, X), output_names=["x"])),
    (r"dynamic names 'X', which is no input.*inputs are x, y", lambda: trace_model(add, (X, X), dynamic={"X": "b, _"})),
    (r"dynamic names 2, which is no input", lambda: trace_model(add, (X, X), dynamic={2: "b, _"})),
    (r"dynamic has 1 elements for 2 arguments", lambda: trace_model(add, (X, X), dynamic=["b, _"])),
    (r"'b, s, d' describes 3 dimensions, and the example has 2, \(2, 8\)",
     lambda: trace_model(add, (X, X), dynamic="b, s, d")),
    (r"dynamic for x, whose example is \(2, 8\): .*different size 7",
     lambda: trace_model(add, (X, X), dynamic="b, 7")),
    (r"no axis 2; the example is \(2, 8\), and axes are integers from 0 to 1",
     lambda: trace_model(add, (X, X), dynamic={"x": {2: "b"}})),
    (r"dynamic for x is int 3; expected is a string", lambda: trace_model(add, (X, X), dynamic={"x": 3})),
    (r"the dimension 'b' is 2 in the example for x and 1 in that for y",
     lambda: trace_model(add, (X, X[:1]), dynamic="b, _")),
    (r"short decides by a symbolic size: .*dynamic_constraints", lambda: trace_model(short, (X,), dynamic="b, s")),
    (r"dynamic_constraints is a list: write \('b >= 2',\)",
     lambda: trace_model(add, (X, X), dynamic="b, _", dynamic_constraints="b >= 2")),
    (r"dynamic_constraints \['b b'\] cannot be read: Constraint parsing error",
     lambda: trace_model(add, (X, X), dynamic="b, _", dynamic_constraints=["b b"])),
]  # fmt: skip


@pytest.mark.parametrize(("message", "call"), BAD, ids=[message for message, _ in BAD])
def test_bad_input_is_told_what_to_do(message: str, call: Callable[[], Any]) -> None:
    with pytest.raises(ZenithError, match=message):
        call()
