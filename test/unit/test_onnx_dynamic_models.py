"""Models of Hugging Face with symbolic batch and sequence raise to what their static traces raise to."""

import collections
import re

import jax
import jax.numpy as jnp
import pytest
from jax import export
from symbolic_sizes import spelled

import zenith_mlir as zenith
from zenith_mlir.ir.composites import composite_name, zenith_composites
from zenith_mlir.onnx.dynamic import specialize

transformers = pytest.importorskip("transformers")

_SMALL = {"vocab_size": 99, "max_position_embeddings": 64, "num_hidden_layers": 1, "num_attention_heads": 4}
MODELS = {
    "Bert": ("FlaxBertModel", {**_SMALL, "hidden_size": 32, "intermediate_size": 64}),
    "GPT2": ("FlaxGPT2LMHeadModel", {"vocab_size": 99, "n_positions": 64, "n_embd": 32, "n_layer": 1, "n_head": 4}),
    "Llama": ("FlaxLlamaForCausalLM", {**_SMALL, "hidden_size": 32, "intermediate_size": 64, "num_key_value_heads": 2}),
}


def raised_ops(module):
    return collections.Counter(map(composite_name, zenith_composites(module.operation)))


@pytest.mark.parametrize("name", MODELS)
def test_symbolic_models_raise_as_static_ones_do(name):
    class_name, options = MODELS[name]
    model = getattr(transformers, class_name)(getattr(transformers, f"{name}Config")(**options), _do_init=False)
    parameters = jax.eval_shape(lambda: model.init_weights(jax.random.key(0), (1, 1)))

    def fn(parameters, ids, mask, positions):
        return model(ids, attention_mask=mask, position_ids=positions, params=parameters)[0]

    def trace(*dims):
        return zenith.trace(fn, parameters, *[jax.ShapeDtypeStruct(dims, jnp.int32)] * 3)

    static = raised_ops(trace(3, 24).run("raise"))
    module = trace(*export.symbolic_shape("b, s", constraints=["s<=64"]))
    texts = []
    for salt in (0, 1):
        found = specialize(module, salt)
        raised = found.module.run("raise")
        assert raised_ops(raised) == static
        texts.append(spelled(found, raised))
    assert {"zenith.attention"} < set(static)
    assert texts[0] == texts[1]
    assert not re.search(r"[<x]\d{6,}x", texts[0])
