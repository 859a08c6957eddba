"""Models of real libraries become modules with named weights, and compute what they computed."""

from __future__ import annotations

import functools
import math
import os
import re
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from zenith_mlir.errors import ZenithError
from zenith_mlir.onnx.source import Source, trace_model

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
# Keras chooses when it is imported.
os.environ.setdefault("KERAS_BACKEND", "jax")

pytestmark = pytest.mark.once

X = jnp.asarray(np.random.default_rng(0).standard_normal((2, 8)), jnp.float32)
TOKENS = jnp.asarray(np.random.default_rng(1).integers(0, 50, (2, 6)), jnp.int32)
CONSTANT = re.compile(r"stablehlo.constant dense<[\[\"].*: tensor<(?:([\dx]+)x)?\w+>")


def agree(source: Source, expected: Any, *arguments: Any) -> None:
    """No numbers of weights are in the module, and with them as arguments it gives what the model gives."""
    assert all(math.prod(map(int, shape.split("x"))) <= 32 for shape in CONSTANT.findall(source.module.text()))
    weights = [each.numpy() for each in source.parameters]
    results = source.module.compile()(*weights, *jax.tree.leaves(arguments))
    for got, want in zip(results, jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(got, want, rtol=2e-5, atol=2e-5)


def names(source: Source) -> tuple[set[str], list[str], list[str]]:
    weights = [each.name for each in source.parameters]
    assert len(set(weights)) == len(weights)
    assert [each.index for each in (*source.parameters, *source.inputs)] == list(
        range(len(weights) + len(source.inputs))
    )
    return set(weights), [each.name for each in source.inputs], list(source.outputs)


# ---- Flax Linen ----


@pytest.fixture(scope="module")
def linen() -> tuple[Any, Any]:
    nn = pytest.importorskip("flax.linen")

    class Net(nn.Module):
        @nn.compact
        def __call__(self, tokens: jax.Array, mask: Any = None, *, train: bool = False) -> jax.Array:
            y = nn.BatchNorm(use_running_average=not train)(nn.Dense(8)(tokens))
            return y if mask is None else y * mask["rows"]

        def features(self, tokens: jax.Array) -> Any:
            return {"features": tokens * 2}

    module = Net()
    return module, module.init(jax.random.key(0), X)


LINEN = {"Dense_0.kernel", "Dense_0.bias", "BatchNorm_0.scale", "BatchNorm_0.bias",
         "batch_stats.BatchNorm_0.mean", "batch_stats.BatchNorm_0.var"}  # fmt: skip


def test_linen_module_with_its_variables(linen: Any) -> None:
    module, variables = linen
    source = trace_model(module, (X, {"rows": X}), params=variables)
    assert names(source) == (LINEN, ["tokens", "mask.rows"], ["output"])
    agree(source, module.apply(variables, X, {"rows": X}), X, X)


@pytest.mark.parametrize(
    "form",
    [
        lambda m, v: (m.apply, v),
        lambda m, v: (functools.partial(m, train=False), v),
        lambda m, v: (functools.partial(m.apply, train=False, mutable=False), v),
        lambda m, v: (m.bind(v), None),
    ],
)
def test_linen_in_other_words(linen: Any, form: Callable[..., Any]) -> None:
    module, variables = linen
    model, params = form(module, variables)
    source = trace_model(model, (X,), params=params)
    assert names(source) == (LINEN, ["tokens"], ["output"])
    assert source.module.text() == trace_model(module, (X,), params=variables).module.text()


def test_linen_methods_and_closures(linen: Any) -> None:
    module, variables = linen
    source = trace_model(module.bind(variables).features, (X,))
    assert names(source) == (LINEN, ["tokens"], ["features"])
    source = trace_model(functools.partial(module.apply, variables), (X,))
    assert names(source)[:2] == ({"Dense_0.kernel"}, ["tokens"])
    assert names(trace_model(jax.jit(lambda x: module.apply(variables, x)), (X,)))[1] == ["x"]


def test_linen_without_its_variables(linen: Any) -> None:
    module, variables = linen
    with pytest.raises(ZenithError, match=r"Net has no parameters of its own: .*give them as params="):
        trace_model(module, (X,))
    with pytest.raises(ZenithError, match=r"its keys are .*Dense_0.*; write params=\{'params': params\}"):
        trace_model(module, (X,), params=variables["params"])
    with pytest.raises(ZenithError, match=r"bound module Net holds its parameters"):
        trace_model(module.bind(variables), (X,), params=variables)
    with pytest.raises(ZenithError, match=r"Net needs the value of an input .*functools.partial"):
        trace_model(module, (X,), kwargs={"train": False}, params=variables)


# ---- Flax NNX ----


@pytest.fixture(scope="module")
def nnx_model() -> Any:
    nnx = pytest.importorskip("flax.nnx")

    class Net(nnx.Module):
        def __init__(self, rngs: Any):
            self.first, self.norm = nnx.Linear(8, 8, rngs=rngs), nnx.BatchNorm(8, rngs=rngs)
            self.drop, self.tied = nnx.Dropout(0.5, rngs=rngs), self.first

        def __call__(self, x: jax.Array) -> jax.Array:
            return self.tied(self.drop(self.norm(self.first(x))))

        def head(self, hidden: jax.Array) -> Any:
            return {"logits": self.norm(hidden)}

    return Net(nnx.Rngs(0))


NNX = {
    "first.kernel",
    "first.bias",
    "norm.scale",
    "norm.bias",
    "norm.mean",
    "norm.var",
    "drop.rngs.key",
    "drop.rngs.count",
}


def test_nnx_module(nnx_model: Any) -> None:
    nnx_model.eval()
    source = trace_model(nnx_model, (X,))
    # Shared weights are there once; what nobody draws from is no reason for a note.
    assert names(source) == (NNX, ["x"], ["output"])
    assert not source.notes
    agree(source, nnx_model(X), X)
    source = trace_model(nnx_model.head, (X,))
    assert names(source) == (NNX, ["hidden"], ["logits"])
    agree(source, nnx_model.head(X), X)


def test_nnx_closure_names_its_weights(nnx_model: Any) -> None:
    nnx_model.eval()
    source = trace_model(lambda x: nnx_model(x), (X,))
    assert names(source)[0] in ({"nnx_model.first.kernel"}, {"nnx_model.tied.kernel"})
    agree(source, nnx_model(X), X)


def test_nnx_in_training_mode_gets_a_note(nnx_model: Any) -> None:
    nnx_model.train()
    mean = np.asarray(nnx_model.norm.mean[...])
    source = trace_model(nnx_model, (X,))
    assert "Net draws random numbers from drop.rngs.count, drop.rngs.key" in source.notes[0]
    assert "model.eval()" in source.notes[0]
    np.testing.assert_array_equal(nnx_model.norm.mean[...], mean)


# ---- Equinox ----


def test_equinox_module() -> None:
    eqx = pytest.importorskip("equinox")
    mlp = eqx.nn.MLP(8, 8, 8, 1, key=jax.random.key(0))
    weights = {f"layers.{i}.{leaf}" for i in range(2) for leaf in ("weight", "bias")}
    source = trace_model(mlp, (X[0],))
    assert names(source) == (weights, ["x"], ["output"])
    agree(source, mlp(X[0]), X[0])
    source = trace_model(lambda model, rows: jax.vmap(model)(rows), (X,), params=mlp)
    assert names(source) == (weights, ["rows"], ["output"])
    agree(source, jax.jit(jax.vmap(mlp))(X), X)
    source = trace_model(jax.vmap(mlp), (X,))
    assert names(source)[0] == {f"layers.{i}.weight" for i in range(2)}


def test_equinox_module_with_state() -> None:
    eqx = pytest.importorskip("equinox")
    norm, state = eqx.nn.make_with_state(eqx.nn.BatchNorm)(8, "batch", mode="ema")
    norm = eqx.nn.inference_mode(norm)
    source = trace_model(norm, (X[0], state))
    weights, inputs, outputs = names(source)
    assert weights == {"weight", "bias"} and inputs[0] == "x" and outputs[0] == "output_0"
    assert all(name.startswith("state.") for name in inputs[1:]) and len(inputs) == len(outputs)
    agree(source, norm(X[0], state), X[0], state)
    fixed = trace_model(lambda m, x: m[0](x, m[1])[0], (X[0],), params=(norm, state))
    assert names(fixed)[1:] == (["x"], ["output"])
    agree(fixed, norm(X[0], state)[0], X[0])


# ---- Haiku ----


@pytest.mark.parametrize("has_rng", [True, False])
@pytest.mark.parametrize("has_state", [True, False])
def test_haiku_transforms(has_state: bool, has_rng: bool) -> None:
    hk = pytest.importorskip("haiku")

    def forward(image: jax.Array) -> jax.Array:
        y = hk.nets.MLP([8])(image)
        count = hk.get_state("count", (), init=jnp.zeros) if has_state else 0.0
        return y + count

    transformed = (hk.transform_with_state if has_state else hk.transform)(forward)
    params = transformed.init(jax.random.key(0), X)
    model = transformed if has_rng else hk.without_apply_rng(transformed)
    source = trace_model(model, (X,), params=params)
    weights = {"mlp.linear_0.w", "mlp.linear_0.b"} | ({"state..count"} if has_state else set())
    assert {name.replace("._.", "..") for name in names(source)[0]} == weights
    assert names(source)[1:] == (["image"], ["output"])
    expected = transformed.apply(*params, None, X)[0] if has_state else transformed.apply(params, None, X)
    agree(source, expected, X)


def test_haiku_with_a_key_as_input() -> None:
    hk = pytest.importorskip("haiku")
    model = hk.transform(lambda x: hk.dropout(hk.next_rng_key(), 0.5, hk.Linear(3)(x)))
    params = model.init(jax.random.key(0), X)
    source = trace_model(model, (X,), params=params, kwargs={"rng": jax.random.key(1)})
    assert names(source)[1] == ["x", "rng"]
    agree(source, model.apply(params, jax.random.key(1), X), X, jax.random.key_data(jax.random.key(1)))
    with pytest.raises(ZenithError, match="give what its init returns as params="):
        trace_model(model, (X,))


# ---- Keras ----


@pytest.fixture(scope="module")
def keras() -> Any:
    keras = pytest.importorskip("keras")
    if keras.backend.backend() != "jax":
        pytest.skip("Keras does not run on JAX")
    return keras


def test_keras_functional_model(keras: Any) -> None:
    left, right = keras.Input((8,), name="left"), keras.Input((8,), name="right")
    hidden = keras.layers.BatchNormalization()(keras.layers.Dense(8, name="dense")(left))
    head = keras.layers.Dense(3, name="head")(keras.layers.Dropout(0.5)(hidden) + right)
    model = keras.Model([left, right], [head, hidden])
    source = trace_model(model, (X, X))
    weights, inputs, outputs = names(source)
    assert weights >= {"dense.kernel", "dense.bias", "head.kernel", "head.bias"}
    assert inputs == ["left", "right"] and outputs[0] == "head" and not source.notes
    agree(source, model([X, X]), X, X)
    assert names(trace_model(model, ([X, X],))) == names(source)
    assert trace_model(model, (X, X), dynamic="batch, _").inputs[0].index == len(weights) + 1


def test_keras_model_with_a_call_of_its_own(keras: Any) -> None:
    class Net(keras.Model):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.dense, self.drop = keras.layers.Dense(5), keras.layers.Dropout(0.5)

        def call(self, tokens: Any, training: bool = False) -> Any:
            return {"logits": self.drop(self.dense(tokens), training=training)}

    model = Net()
    with pytest.raises(ZenithError, match="Net is not built, so it has no weights; call it once"):
        trace_model(model, (X,))
    expected = model(X)
    source = trace_model(model, (X,))
    assert names(source)[1:] == (["tokens"], ["logits"]) and not source.notes
    agree(source, expected, X)
    assert trace_model(functools.partial(model, training=True), (X,)).notes
    source = trace_model(lambda x: model(x)["logits"], (X,))
    assert len(source.parameters) == 1
    agree(source, expected, X)


# ---- Transformers ----


@pytest.fixture(scope="module")
def bert() -> Any:
    try:
        import transformers

        config = transformers.BertConfig(
            vocab_size=50, hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16,
            max_position_embeddings=12,
        )  # fmt: skip
        # Its own initialization takes ten seconds.
        model = transformers.FlaxBertModel(config, input_shape=(1, 6), _do_init=False)
        rng = np.random.default_rng(0)
        shapes = model.params_shape_tree
        model._is_initialized = True
        model.params = jax.tree.map(lambda leaf: rng.standard_normal(leaf.shape).astype(leaf.dtype), shapes)
        return model
    except (ImportError, AttributeError, RuntimeError, TypeError) as error:
        pytest.skip(f"transformers has no working FlaxBertModel: {error}")


def test_transformers_model(bert: Any) -> None:
    outputs = ["last_hidden_state", "pooler_output"]
    mask = jnp.ones_like(TOKENS).at[0, 4:].set(0)
    source = trace_model(bert, (TOKENS,), kwargs={"attention_mask": mask})
    weights, *rest = names(source)
    assert "embeddings.word_embeddings.embedding" in weights and "pooler.dense.kernel" in weights
    assert len(weights) == len(jax.tree.leaves(bert.params))
    assert rest == [["input_ids", "attention_mask"], outputs]
    agree(source, jax.jit(lambda t, m: bert(t, attention_mask=m))(TOKENS, mask), TOKENS, mask)


def test_transformers_with_symbolic_sizes(bert: Any) -> None:
    source = trace_model(bert, (TOKENS,), kwargs={"attention_mask": TOKENS}, dynamic="batch, seq")
    main, *_ = (line for line in source.module.text().splitlines() if "@main(" in line)
    assert re.findall(r'jax.global_constant = "(\w+)"', main) == ["batch", "seq"] and source.parameters[0].index == 2
    assert [each.index for each in source.inputs] == [len(source.parameters) + 2, len(source.parameters) + 3]


def test_transformers_in_functions(bert: Any) -> None:
    source = trace_model(lambda params, ids: bert(ids, params=params)[0], (TOKENS,), params=bert.params)
    assert names(source)[1:] == (["ids"], ["output"])
    closure = trace_model(lambda ids: bert(ids)[0], (TOKENS,))
    assert "bert.embeddings.word_embeddings.embedding" in names(closure)[0]
    agree(closure, jax.jit(lambda ids: bert(ids)[0])(TOKENS), TOKENS)
