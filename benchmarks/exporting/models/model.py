"""`Model`: a row of the bench of live models."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import NDArray

VOCABULARY, CLASSES = 1000, 10


@dataclass(frozen=True)
class Built:
    """`own` is what our exporter is given, a function or a model of a library; with `params` it is one of them and of
    the arguments. `peer` is a function of the arguments alone, as jax2onnx's documentation calls the library's models.
    """

    own: Any
    peer: Callable[..., Any]
    arguments: tuple[NDArray[Any], ...]
    params: Any = None


@dataclass(frozen=True)
class Model:
    """`build` makes it, with the same numbers in every process."""

    name: str
    build: Callable[[], Built]


def tokens(*shape: int) -> NDArray[Any]:
    return np.random.default_rng(0).integers(0, VOCABULARY, shape).astype(np.int32)


def normal(*shape: int, seed: int = 0) -> NDArray[Any]:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def positive(*shape: int, seed: int = 0) -> NDArray[Any]:
    return np.random.default_rng(seed).uniform(0.5, 1.5, shape).astype(np.float32)


def function(call: Callable[..., Any], params: Any, *arguments: NDArray[Any]) -> Built:
    """A function of parameters and arguments."""
    params = jax.tree.map(jnp.asarray, params)
    return Built(call, lambda *args: call(params, *args), arguments, params)
