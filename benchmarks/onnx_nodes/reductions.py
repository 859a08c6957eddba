"""Reductions, orders and running sums."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from onnx_nodes.meaning import Meaning, numbers

__all__ = ["REDUCTIONS"]


def _reduction(reduce: Callable[..., Any]) -> Meaning:
    """`reduce(x, axis, keepdims)` over axes that come as an operand or an attribute."""

    def function(node: Any, x: Any, axes: Any = None) -> Any:
        over = numbers(axes) or node["axes"]
        if not over and node["noop_with_empty_axes"]:
            over = []
        return reduce(x, axis=None if over is None else tuple(over), keepdims=bool(node["keepdims"]))

    return Meaning(function, known=(1,))


def _ends(dtype: Any) -> tuple[Any, Any]:
    """The least and the largest of a type."""
    if dtype == np.bool_:
        return False, True
    if jnp.issubdtype(dtype, jnp.integer):
        return np.iinfo(dtype).min, np.iinfo(dtype).max
    return -np.inf, np.inf


def _max(x: Any, **how: Any) -> Any:
    return jnp.max(x, initial=_ends(x.dtype)[0], **how)


def _min(x: Any, **how: Any) -> Any:
    return jnp.min(x, initial=_ends(x.dtype)[1], **how)


def _pick(pick: Callable[..., Any]) -> Meaning:
    def function(node: Any, x: Any) -> Any:
        axis, keep = node["axis"], bool(node["keepdims"])
        if node["select_last_index"]:
            return x.shape[axis] - 1 - pick(jnp.flip(x, axis), axis, keepdims=keep)
        return pick(x, axis, keepdims=keep)

    return Meaning(function)


def _running(run: Callable[..., Any], first: int) -> Meaning:
    def function(node: Any, x: Any, axis: Any) -> Any:
        (axis,) = numbers(axis) or [0]
        x = jnp.flip(x, axis) if node["reverse"] else x
        if node["exclusive"]:
            head = jnp.full_like(lax.slice_in_dim(x, 0, 1, axis=axis), first)
            x = jnp.concatenate([head, lax.slice_in_dim(x, 0, x.shape[axis] - 1, axis=axis)], axis)
        y = run(x, axis=axis)
        return jnp.flip(y, axis) if node["reverse"] else y

    return Meaning(function, known=(1,))


def _top_k(node: Any, x: Any, k: Any) -> Any:
    (k,), axis = numbers(k) or [1], node["axis"]
    rows = jnp.moveaxis(x, axis, -1)
    if node["largest"]:
        values, places = lax.top_k(rows, k)
    else:
        places = jnp.argsort(rows, axis=-1, stable=True)[..., :k]
        values = jnp.take_along_axis(rows, places, -1)
    return jnp.moveaxis(values, -1, axis), jnp.moveaxis(places, -1, axis).astype(jnp.int64)


def _hardmax(node: Any, x: Any) -> Any:
    axis = node["axis"]
    return jax.nn.one_hot(jnp.argmax(x, axis), x.shape[axis], dtype=x.dtype, axis=axis)


REDUCTIONS: dict[str, Meaning] = {
    "ArgMax": _pick(jnp.argmax),
    "ArgMin": _pick(jnp.argmin),
    "CumProd": _running(jnp.cumprod, 1),
    "CumSum": _running(jnp.cumsum, 0),
    "Hardmax": Meaning(_hardmax),
    "LogSoftmax": Meaning(lambda node, x: jax.nn.log_softmax(x, node["axis"])),
    "ReduceL1": _reduction(lambda x, **how: jnp.sum(jnp.abs(x), **how)),
    "ReduceL2": _reduction(lambda x, **how: jnp.sqrt(jnp.sum(x * x, **how))),
    "ReduceLogSum": _reduction(lambda x, **how: jnp.log(jnp.sum(x, **how))),
    "ReduceLogSumExp": _reduction(
        lambda x, **how: jax.nn.logsumexp(x, **how) if x.size else jnp.log(jnp.sum(jnp.exp(x), **how))
    ),
    "ReduceMax": _reduction(_max),
    "ReduceMean": _reduction(jnp.mean),
    "ReduceMin": _reduction(_min),
    "ReduceProd": _reduction(jnp.prod),
    "ReduceSum": _reduction(jnp.sum),
    "ReduceSumSquare": _reduction(lambda x, **how: jnp.sum(x * x, **how)),
    "Softmax": Meaning(lambda node, x: jax.nn.softmax(x, node["axis"])),
    "TopK": Meaning(_top_k, known=(1,)),
}
