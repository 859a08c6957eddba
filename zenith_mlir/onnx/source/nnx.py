"""Flax NNX: modules hold their weights in variables."""

from __future__ import annotations

import inspect
from typing import Any

import jax

from zenith_mlir.onnx.source import names
from zenith_mlir.onnx.source.model import Model, is_a, refuse_params, signature_of

__all__ = ["recognise"]


def recognise(fn: Any, params: Any) -> Model | None:
    """A module that can be called, or a method of one.

    Weights that two modules share are one parameter. What a call writes into variables is thrown away, and noted.
    """
    module = fn.__self__ if inspect.ismethod(fn) else fn
    if not is_a(module, "flax.nnx", "Module"):
        return None
    from flax import nnx

    method = fn.__name__ if inspect.ismethod(fn) else "__call__"
    title, written = type(module).__name__, set[str]()
    refuse_params(params, f"the NNX module {title}")
    graph, state = nnx.split(module)
    generators = jax.tree_util.tree_leaves_with_path(nnx.split(module, nnx.RngState, ...)[1])

    def call(state: Any, *args: Any, **kwargs: Any) -> Any:
        # First: the module may write into the variables of `state` itself.
        before = dict(jax.tree_util.tree_leaves_with_path(state))
        merged = nnx.merge(graph, state)
        result = getattr(merged, method)(*args, **kwargs)
        after = jax.tree_util.tree_leaves_with_path(nnx.state(merged))
        written.update(names.of_parameters(path) for path, value in after if before.get(path) is not value)
        return result

    random = frozenset(names.of_parameters(path) for path, _ in generators)
    return Model(call, state, signature_of(fn), title, random=random, written=written)
