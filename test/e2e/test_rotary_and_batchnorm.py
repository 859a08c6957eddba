"""Rotary embeddings and BatchNorm of real libraries, traced live: every site is found, and none more."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import pytest
from library_models import HEADS, SEQ, WIDTH, activations, tokens

import zenith_mlir as zenith

# A function, its arguments, and how many sites it has.
Model = tuple[Callable[..., Any], tuple[Any, ...], int]
IMAGES = (2, 16, 16, 3)


def transformers(config: str, model: str, inputs: jax.Array, sites: int, **options: Any) -> Model:
    """A model of Hugging Face's, whose parameters are shapes only."""
    try:
        import transformers as library

        settings = getattr(library, config)(**options)
        built = getattr(library, model)(settings, input_shape=inputs.shape, _do_init=False)
        parameters = jax.eval_shape(lambda: built.init_weights(jax.random.key(0), inputs.shape))
    except (ImportError, AttributeError, RuntimeError, TypeError) as error:
        raise ImportError(f"transformers has no working {model}: {error}") from error
    return lambda p, x: built(x, params=p)[0], (parameters, inputs), sites


def language_model(config: str, model: str, **options: Any) -> Model:
    return transformers(config, model, tokens(), 4, vocab_size=50, **options)


def llama() -> Model:
    return language_model(
        "LlamaConfig", "FlaxLlamaModel", hidden_size=WIDTH, intermediate_size=64, num_hidden_layers=2,
        num_attention_heads=HEADS, num_key_value_heads=2, max_position_embeddings=SEQ,
    )  # fmt: skip


def gptj() -> Model:
    """The first features of each head, in neighbouring pairs."""
    return language_model(
        "GPTJConfig", "FlaxGPTJModel", n_embd=WIDTH, n_layer=2, n_head=HEADS, n_positions=SEQ, rotary_dim=4
    )


def roformer() -> Model:
    return language_model(
        "RoFormerConfig", "FlaxRoFormerModel", hidden_size=WIDTH, num_hidden_layers=2, num_attention_heads=HEADS,
        intermediate_size=64, max_position_embeddings=SEQ,
    )  # fmt: skip


def equinox() -> Model:
    import equinox as eqx

    class Attention(eqx.Module):
        attention: eqx.nn.MultiheadAttention
        rope: eqx.nn.RotaryPositionalEmbedding

        def __call__(self, x: jax.Array) -> jax.Array:
            rotate = jax.vmap(self.rope, in_axes=1, out_axes=1)
            return self.attention(x, x, x, process_heads=lambda q, k, v: (rotate(q), rotate(k), v))

    model = Attention(
        eqx.nn.MultiheadAttention(HEADS, WIDTH, key=jax.random.key(0)),
        eqx.nn.RotaryPositionalEmbedding(embedding_size=WIDTH // HEADS),
    )
    parameters, static = eqx.partition(model, eqx.is_inexact_array)
    return lambda p, x: jax.vmap(eqx.combine(p, static))(x), (parameters, activations()), 2


@pytest.fixture(params=[llama, gptj, roformer, equinox], ids=lambda build: build.__name__)
def rotated(request: pytest.FixtureRequest) -> Model:
    return built(request.param)


def built(build: Callable[[], Model]) -> Model:
    try:
        return build()
    except ImportError as error:
        pytest.skip(str(error))


def found(function: Callable[..., Any], arguments: tuple[Any, ...], pass_name: str) -> list[tuple[str, str]]:
    module = zenith.trace(function, *arguments).run(f"prepare,raise-attention,{pass_name}", target="none")
    return [(r.kind, r.op) for r in module.remarks if r.pass_name == pass_name]


def test_every_rotation_is_raised(rotated: Model) -> None:
    function, arguments, sites = rotated
    assert found(function, arguments, "raise-rotary") == [("passed", "zenith.rotary")] * sites


def test_every_gradient_of_a_rotation_is_raised(rotated: Model) -> None:
    function, (parameters, *rest), sites = rotated
    gradient = jax.grad(lambda *a: (function(*a) ** 2).sum())
    remarks = sorted(found(gradient, (parameters, *rest), "raise-rotary"))
    assert remarks == [("passed", "zenith.rotary")] * sites + [("passed", "zenith.rotary_vjp")] * sites


def linen(train: bool = False) -> Model:
    from flax import linen as nn

    class Net(nn.Module):
        @nn.compact
        def __call__(self, x: jax.Array) -> jax.Array:
            for width in (8, 16):
                x = nn.Conv(width, (3, 3))(x)
                x = nn.relu(nn.BatchNorm(use_running_average=not train)(x))
            return x

    variables = jax.eval_shape(Net().init, jax.random.key(0), jnp.ones(IMAGES))
    return (lambda v, x: Net().apply(v, x, mutable=["batch_stats"])), (variables, jnp.ones(IMAGES)), 0 if train else 2


def linen_in_training() -> Model:
    return linen(train=True)


def nnx() -> Model:
    from flax import nnx

    class Net(nnx.Module):
        def __init__(self) -> None:
            rngs = nnx.Rngs(0)
            self.conv, self.norm = nnx.Conv(3, 8, (3, 3), rngs=rngs), nnx.BatchNorm(8, rngs=rngs)

        def __call__(self, x: jax.Array) -> jax.Array:
            return nnx.relu(self.norm(self.conv(x), use_running_average=True))

    graph, state = nnx.split(Net())
    return lambda s, x: nnx.merge(graph, s)(x), (state, jnp.ones(IMAGES)), 1


def haiku() -> Model:
    import haiku as hk

    net = hk.transform_with_state(lambda x, train: hk.nets.ResNet18(4)(x, is_training=train))
    parameters, state = jax.eval_shape(lambda x: net.init(jax.random.key(0), x, True), jnp.ones(IMAGES))
    return lambda p, s, x: net.apply(p, s, None, x, False)[0], (parameters, state, jnp.ones(IMAGES)), 20


def resnet() -> Model:
    sizes = {"embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 1], "layer_type": "basic"}
    function, (parameters, _), sites = transformers("ResNetConfig", "FlaxResNetModel", jnp.ones(IMAGES), 6, **sizes)
    return function, (parameters, jnp.ones((2, 3, 16, 16))), sites


@pytest.mark.parametrize("build", [linen, linen_in_training, nnx, haiku, resnet], ids=lambda build: build.__name__)
def test_batch_norms_are_folded_at_inference(build: Callable[[], Model]) -> None:
    function, arguments, sites = built(build)
    assert found(function, arguments, "fold-batchnorm") == [("passed", "stablehlo.convolution")] * sites
