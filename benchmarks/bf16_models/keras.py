"""Keras, mixed_bfloat16, on its JAX backend."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

# Read when keras is imported.
os.environ["KERAS_BACKEND"] = "jax"

import keras
from keras import layers

from bf16_models.model import CLASSES, VOCABULARY, Apply, Model, images, tokens

POLICIES = {"float32": "float32", "bfloat16": "mixed_bfloat16"}


def encoder() -> Any:
    x = ids = keras.Input((32,), dtype="int32")
    x = layers.Embedding(VOCABULARY, 64)(x)
    for _ in range(2):
        y = layers.LayerNormalization()(x)
        x = layers.Add()([x, layers.MultiHeadAttention(4, 16)(y, y)])
        y = layers.Dense(256, activation="gelu")(layers.LayerNormalization()(x))
        x = layers.Add()([x, layers.Dense(64)(y)])
    return keras.Model(ids, logits(VOCABULARY, layers.LayerNormalization()(x)))


def conv_net() -> Any:
    x = pixels = keras.Input((8, 8, 3))
    for width in (16, 32, 64):
        x = layers.Conv2D(width, 3, strides=2, padding="same", use_bias=False)(x)
        x = layers.ReLU()(layers.BatchNormalization()(x))
    return keras.Model(pixels, logits(CLASSES, layers.GlobalAveragePooling2D()(x)))


def logits(classes: int, x: Any) -> Any:
    """The guide has what follows the last layer in float32."""
    return layers.Activation("linear", dtype="float32")(layers.Dense(classes)(x))


def model(name: str, make: Callable[[], Any], inputs: Any) -> Model:
    def made(dtype: str) -> Any:
        keras.utils.set_random_seed(0)
        keras.config.set_dtype_policy(POLICIES[dtype])
        own = make()
        keras.config.set_dtype_policy("float32")
        return own

    def build(dtype: str) -> Apply:
        own = made(dtype)
        fixed = [variable.value for variable in own.non_trainable_variables]
        return lambda parameters, x: own.stateless_call(parameters, fixed, x, training=True)[0]

    def parameters() -> list[Any]:
        return [variable.value for variable in made("float32").trainable_variables]

    return Model(f"Keras {name}", build, parameters, inputs)


MODELS = [model("encoder", encoder, tokens(4, 32)), model("conv net", conv_net, images(8, 8))]
