"""`Model`: a model of a library, which the library can be told to compute in bfloat16 itself."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

# f(parameters, inputs) -> logits [..., classes]
Apply = Callable[[Any, jax.Array], jax.Array]

VOCABULARY, CLASSES = 97, 10


@dataclass(frozen=True)
class Model:
    """`build` gives the model that computes in "float32" or "bfloat16", `parameters` what both take, in float32, as
    initialized; `inputs` draws one batch.
    """

    name: str
    build: Callable[[str], Apply]
    parameters: Callable[[], Any]
    inputs: Callable[[np.random.Generator], np.ndarray]


def tokens(batch: int, length: int) -> Callable[[np.random.Generator], np.ndarray]:
    return lambda generator: generator.integers(0, VOCABULARY, (batch, length)).astype(np.int32)


def images(batch: int, size: int) -> Callable[[np.random.Generator], np.ndarray]:
    return lambda generator: generator.normal(size=(batch, size, size, 3)).astype(np.float32)


def cross_entropy(logits: jax.Array, labels: jax.Array) -> jax.Array:
    """In float32, as every library's guide to mixed precision has it."""
    losses = jax.nn.log_softmax(logits.astype(jnp.float32))
    return -jnp.take_along_axis(losses, labels[..., None], -1).mean()
