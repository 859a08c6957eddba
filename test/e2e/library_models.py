"""Small models of real libraries, each as a function, its arguments and how many composites of each op it has.

A library that is not installed, or that does not run on this JAX, raises ImportError where its model is built.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")

Model = tuple[Callable[..., Any], tuple[Any, ...], dict[str, int]]
BATCH, SEQ, WIDTH, HEADS = 2, 24, 32, 4
BERT = {"attention": 2, "layer_norm": 5, "gelu": 2}
LLAMA = {"attention": 2, "rms_norm": 5, "swiglu": 2, "rotary": 4}


def tokens() -> jax.Array:
    return jnp.asarray(np.random.default_rng(0).integers(0, 50, (BATCH, SEQ)), jnp.int32)


def padding() -> jax.Array:
    return jnp.asarray(np.arange(SEQ)[None, :] < np.array([[SEQ], [SEQ - 5]]), jnp.int32)


def activations() -> jax.Array:
    return jnp.asarray(np.random.default_rng(1).standard_normal((BATCH, SEQ, WIDTH)), jnp.float32)


def _transformers(config: str, model: str, **options: Any) -> Any:
    try:
        import transformers

        return getattr(transformers, model)(getattr(transformers, config)(**options), input_shape=(1, SEQ), seed=0)
    except (ImportError, AttributeError, RuntimeError, TypeError) as error:
        raise ImportError(f"transformers has no working {model}: {error}") from error


def huggingface_bert() -> Model:
    model = _transformers(
        "BertConfig", "FlaxBertModel", vocab_size=50, hidden_size=WIDTH, num_hidden_layers=2, num_attention_heads=HEADS,
        intermediate_size=64, max_position_embeddings=SEQ,
    )  # fmt: skip
    return (
        lambda p, i, m: model(i, attention_mask=m, params=p).last_hidden_state,
        (model.params, tokens(), padding()),
        BERT,
    )


def huggingface_gpt2() -> Model:
    model = _transformers(
        "GPT2Config", "FlaxGPT2LMHeadModel", vocab_size=50, n_embd=WIDTH, n_layer=2, n_head=HEADS, n_positions=SEQ
    )
    return (
        lambda p, i, m: model(i, attention_mask=m, params=p).logits,
        (model.params, tokens(), padding()),
        BERT,
    )


def huggingface_llama() -> Model:
    model = _transformers(
        "LlamaConfig", "FlaxLlamaForCausalLM", vocab_size=50, hidden_size=WIDTH, num_hidden_layers=2,
        num_attention_heads=HEADS, num_key_value_heads=2, intermediate_size=64, max_position_embeddings=SEQ,
    )  # fmt: skip
    return (
        lambda p, i, m: model(i, attention_mask=m, params=p).logits,
        (model.params, tokens(), padding()),
        LLAMA,
    )


def huggingface_roberta() -> Model:
    model = _transformers(
        "RobertaConfig", "FlaxRobertaModel", vocab_size=50, hidden_size=WIDTH, num_hidden_layers=2,
        num_attention_heads=HEADS, intermediate_size=64, max_position_embeddings=SEQ + 2,
    )  # fmt: skip
    return (
        lambda p, i, m: model(i, attention_mask=m, params=p).last_hidden_state,
        (model.params, tokens(), padding()),
        BERT,
    )


def flax_nnx() -> Model:
    from flax import nnx

    layer = nnx.MultiHeadAttention(
        num_heads=HEADS, in_features=WIDTH, qkv_features=WIDTH, decode=False, rngs=nnx.Rngs(0)
    )
    graph, state = nnx.split(layer)

    def forward(state: Any, x: jax.Array) -> jax.Array:
        return nnx.merge(graph, state)(x, mask=nnx.make_causal_mask(jnp.ones(x.shape[:2])), deterministic=True)

    return forward, (state, activations()), {"attention": 1}


def flax_linen() -> Model:
    import flax.linen as nn

    class Block(nn.Module):
        @nn.compact
        def __call__(self, x: jax.Array, mask: jax.Array) -> jax.Array:
            both = nn.combine_masks(nn.make_causal_mask(mask), nn.make_attention_mask(mask > 0, mask > 0))
            y = nn.MultiHeadDotProductAttention(num_heads=HEADS)(nn.LayerNorm()(x), mask=both)
            return x + nn.Dense(WIDTH)(nn.gelu(nn.Dense(2 * WIDTH)(y)))

    block = Block()
    parameters = block.init(jax.random.key(0), activations(), padding())
    return block.apply, (parameters, activations(), padding()), {"attention": 1, "layer_norm": 1, "gelu": 1}


def equinox_vmapped() -> Model:
    import equinox as eqx

    layer = eqx.nn.MultiheadAttention(HEADS, WIDTH, key=jax.random.key(0))
    arrays, static = eqx.partition(layer, eqx.is_array)

    def forward(arrays: Any, x: jax.Array) -> jax.Array:
        mha = eqx.combine(arrays, static)
        return jax.vmap(lambda row: mha(row, row, row, mask=jnp.tril(jnp.ones((SEQ, SEQ), bool))))(x)

    return forward, (arrays, activations()), {"attention": 1}


def haiku() -> Model:
    import haiku as hk

    def apply(x: jax.Array, mask: jax.Array) -> jax.Array:
        attention = hk.MultiHeadAttention(HEADS, WIDTH // HEADS, w_init=hk.initializers.VarianceScaling(2.0))
        return attention(x, x, x, mask=mask[:, None, None, :] > 0)

    transformed = hk.without_apply_rng(hk.transform(apply))
    return (
        transformed.apply,
        (transformed.init(jax.random.key(0), activations(), padding()), activations(), padding()),
        {"attention": 1},
    )


def plain_scan_over_layers() -> Model:
    weights = jnp.asarray(np.random.default_rng(2).standard_normal((3, 4, WIDTH, WIDTH)) / WIDTH**0.5, jnp.float32)

    def layer(x: jax.Array, w: jax.Array) -> tuple[jax.Array, None]:
        q, k, v = (jnp.reshape(x @ w[i], (BATCH, SEQ, HEADS, -1)) for i in range(3))
        y = jax.nn.dot_product_attention(q, k, v, is_causal=True).reshape(x.shape)
        return x + y @ w[3], None

    return lambda w, x: jax.lax.scan(layer, x, w)[0], (weights, activations()), {"attention": 1}


MODELS: list[Callable[[], Model]] = [
    huggingface_bert,
    huggingface_gpt2,
    huggingface_llama,
    huggingface_roberta,
    flax_nnx,
    flax_linen,
    equinox_vmapped,
    haiku,
    plain_scan_over_layers,
]
