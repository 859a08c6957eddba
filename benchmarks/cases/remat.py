"""Training steps for benchmarks/remat.py: a function and its arguments, or the shapes of these."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from cases.convnets import NETWORKS

LAYERS, BATCH, LENGTH, WIDTH, HEADS = 12, 8, 256, 256, 4
Step = tuple[Callable[..., Any], tuple[Any, ...]]


def transformer(*, scan: bool = False, wrap: Callable[..., Any] = lambda layer: layer) -> Step:
    """Twelve layers of attention with a causal mask and a gelu MLP behind layer norms, batch 8, sequence 256, width
    256, float32, with a step of gradient descent. Parameters are stacked by layer; `wrap` is applied to a layer.
    """
    keys = jax.random.split(jax.random.key(0), 8)
    shapes = dict.fromkeys("qkvo", (WIDTH, WIDTH)) | {"up": (WIDTH, 4 * WIDTH), "down": (4 * WIDTH, WIDTH)}
    parameters = {
        name: 0.02 * jax.random.normal(key, (LAYERS, *shape))
        for key, (name, shape) in zip(keys, shapes.items(), strict=False)
    } | {"g1": jnp.ones((LAYERS, WIDTH)), "g2": jnp.ones((LAYERS, WIDTH))}
    x, y = (jax.random.normal(key, (BATCH, LENGTH, WIDTH)) for key in keys[-2:])
    layer = wrap(_layer)

    def loss(parameters: dict[str, jax.Array], x: jax.Array, y: jax.Array) -> jax.Array:
        if scan:
            x = jax.lax.scan(lambda x, p: (layer(p, x), None), x, parameters)[0]
        else:
            for i in range(LAYERS):
                x = layer(jax.tree.map(lambda stacked, i=i: stacked[i], parameters), x)
        return jnp.mean((x - y) ** 2)

    def step(parameters: dict[str, jax.Array], x: jax.Array, y: jax.Array) -> Any:
        value, gradients = jax.value_and_grad(loss)(parameters, x, y)
        return value, jax.tree.map(lambda p, g: p - 0.1 * g, parameters, gradients)

    return step, (parameters, x, y)


def _layer(p: dict[str, jax.Array], x: jax.Array) -> jax.Array:
    h = _norm(x, p["g1"])
    q, k, v = ((h @ p[name]).reshape(BATCH, LENGTH, HEADS, -1) for name in "qkv")
    logits = jnp.einsum("bthd,bshd->bhts", q, k) * (WIDTH // HEADS) ** -0.5
    logits = jnp.where(jnp.tril(jnp.ones((LENGTH, LENGTH), bool)), logits, -1e9)
    mixed = jnp.einsum("bhts,bshd->bthd", jax.nn.softmax(logits), v).reshape(x.shape)
    x = x + mixed @ p["o"]
    return x + jax.nn.gelu(_norm(x, p["g2"]) @ p["up"]) @ p["down"]


def _norm(x: jax.Array, g: jax.Array) -> jax.Array:
    centred = x - x.mean(-1, keepdims=True)
    return centred * jax.lax.rsqrt((centred**2).mean(-1, keepdims=True) + 1e-5) * g


def _with_adamw(loss: Callable[..., jax.Array], parameters: Any, *batch: Any) -> Step:
    optimizer = optax.adamw(1e-4)

    def step(parameters: Any, state: Any, *batch: Any) -> Any:
        value, gradients = jax.value_and_grad(loss)(parameters, *batch)
        updates, state = optimizer.update(gradients, state, parameters)
        return optax.apply_updates(parameters, updates), state, value

    # Donated, as in training: or XLA would keep temporaries where the new parameters come later.
    return jax.jit(step, donate_argnums=(0, 1)), (parameters, jax.eval_shape(optimizer.init, parameters), *batch)


def gpt2(batch: int) -> Step:
    """GPT-2 small of Hugging Face, Flax, 4 of its 12 layers, sequence 256, AdamW."""
    from transformers import FlaxGPT2LMHeadModel, GPT2Config

    config = GPT2Config(n_layer=4, resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0)
    model = FlaxGPT2LMHeadModel(config, input_shape=(1, 256), _do_init=False)
    parameters = jax.eval_shape(lambda: model.init_weights(jax.random.key(0), (1, 256)))

    def loss(parameters: Any, tokens: jax.Array) -> jax.Array:
        logits = model(tokens, params=parameters).logits[:, :-1]
        return optax.softmax_cross_entropy_with_integer_labels(logits, tokens[:, 1:]).mean()

    return _with_adamw(loss, parameters, jax.ShapeDtypeStruct((batch, 256), jnp.int32))


def convolutional(name: str, size: int) -> Callable[[int], Step]:
    """A network of cases/convnets.py on images of `size` by `size`, AdamW."""

    def build(batch: int) -> Step:
        network, shape = NETWORKS[name]
        images = jax.ShapeDtypeStruct((batch, size, size, shape[-1]), jnp.float32)
        parameters = jax.eval_shape(network.init, jax.random.key(0), images)
        logits = jax.eval_shape(network.apply, parameters, images)

        def loss(parameters: Any, images: jax.Array, labels: jax.Array) -> jax.Array:
            logits = jax.nn.log_softmax(network.apply(parameters, images))
            return -jnp.take_along_axis(logits, labels[..., None], -1).mean()

        return _with_adamw(loss, parameters, images, jax.ShapeDtypeStruct(logits.shape[:-1], jnp.int32))

    return build


MODELS: dict[str, Callable[[int], Step]] = {
    "GPT-2, 4 layers, sequence 256": gpt2,
    "ResNet-50, 64 x 64": convolutional("ResNet-50", 64),
    "U-Net, 128 x 128": convolutional("U-Net", 128),
}
