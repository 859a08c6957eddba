"""Hugging Face Flax, dtype=bfloat16."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import transformers as hf

from bf16_models.model import VOCABULARY, Apply, Model, tokens

GPT2 = hf.GPT2Config(VOCABULARY, n_positions=32, n_embd=64, n_layer=2, n_head=4)
BERT = hf.BertConfig(
    VOCABULARY, hidden_size=64, num_hidden_layers=2, num_attention_heads=4, intermediate_size=256,
    max_position_embeddings=32,
)  # fmt: skip
LLAMA = hf.LlamaConfig(
    VOCABULARY, hidden_size=64, intermediate_size=172, num_hidden_layers=2, num_attention_heads=4,
    max_position_embeddings=32,
)  # fmt: skip


def model(name: str, kind: Any, config: Any) -> Model:
    def make(dtype: str) -> Any:
        return kind(config, dtype=jnp.dtype(dtype), _do_init=False)

    def build(dtype: str) -> Apply:
        own = make(dtype)
        return lambda parameters, ids: own(ids, params=parameters, train=False).logits

    def parameters() -> Any:
        own = make("float32")
        return jax.jit(lambda key: own.init_weights(key, (1, 32)))(jax.random.key(0))

    return Model(f"Hugging Face {name}", build, parameters, tokens(4, 32))


MODELS = [
    model("GPT-2", hf.FlaxGPT2LMHeadModel, GPT2),
    model("BERT", hf.FlaxBertForMaskedLM, BERT),
    model("Llama", hf.FlaxLlamaForCausalLM, LLAMA),
]
