"""Hugging Face Flax models with random weights."""

from __future__ import annotations

from typing import Any

import jax
import transformers as hf
from numpy.typing import NDArray

from exporting.models.model import VOCABULARY, Built, Model, function, normal, tokens

_SIZES = {"hidden_size": 128, "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 384}
GPT2 = hf.GPT2Config(VOCABULARY, n_positions=64, n_embd=128, n_layer=3, n_head=4)
BERT = hf.BertConfig(VOCABULARY, max_position_embeddings=64, **_SIZES)
LLAMA = hf.LlamaConfig(VOCABULARY, max_position_embeddings=64, **_SIZES)
VIT = hf.ViTConfig(**_SIZES, image_size=32, patch_size=4)
RESNET = hf.ResNetConfig(embedding_size=32, hidden_sizes=[32, 64], depths=[1, 1], layer_type="basic")


def model(name: str, kind: Any, config: Any, inputs: Any, field: str = "logits") -> Model:
    def build() -> Built:
        given: NDArray[Any] = inputs()
        own = kind(config, _do_init=False)
        # Images are NCHW outside and NHWC within, where the shape is asked for.
        shape = given.shape if given.ndim == 2 else (2, 32, 32, 3)
        params = jax.jit(lambda key: own.init_weights(key, shape))(jax.random.key(0))
        return function(lambda params, x: getattr(own(x, params=params, train=False), field), params, given)

    return Model(f"Hugging Face {name}", build)


MODELS = [
    model("BERT", hf.FlaxBertForMaskedLM, BERT, lambda: tokens(2, 64)),
    model("GPT-2", hf.FlaxGPT2LMHeadModel, GPT2, lambda: tokens(2, 64)),
    model("Llama", hf.FlaxLlamaForCausalLM, LLAMA, lambda: tokens(2, 64)),
    model("ViT", hf.FlaxViTModel, VIT, lambda: normal(2, 3, 32, 32), "last_hidden_state"),
    model("ResNet", hf.FlaxResNetModel, RESNET, lambda: normal(2, 3, 32, 32), "last_hidden_state"),
]
