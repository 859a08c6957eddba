"""Programs that compute a norm, in every spelling, and what the composite says of each."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import pytest

BF16, F32 = jnp.bfloat16, jnp.float32


def array(*shape: int, dtype: Any = F32, seed: int = 0) -> jax.Array:
    return jax.random.normal(jax.random.key(seed), shape, F32).astype(dtype)


X, W, B, R = array(2, 3, 40), array(40, seed=1), array(40, seed=2), array(2, 3, 40, seed=3)


def mean(x: jax.Array) -> jax.Array:
    return jnp.mean(x, -1, keepdims=True)


def two_passes(x: jax.Array) -> jax.Array:
    return (x - mean(x)) * jax.lax.rsqrt(mean(jnp.square(x - mean(x))) + 1e-5)


def one_pass(x: jax.Array, w: jax.Array, b: jax.Array) -> jax.Array:
    variance = jnp.maximum(0.0, mean(x * x) - mean(x) ** 2)
    scale = jax.lax.rsqrt(variance + 1e-5) * w
    return (x - mean(x)) * scale + b


def rearranged(x: jax.Array, w: jax.Array, b: jax.Array) -> jax.Array:
    scale = w / jnp.sqrt(jnp.var(x, -1, keepdims=True) + 1e-5)
    return x * scale + (b - mean(x) * scale)


def narrow(x: jax.Array, w: jax.Array, b: jax.Array) -> jax.Array:
    n = two_passes(x.astype(F32))
    return n.astype(x.dtype) * w.astype(x.dtype) + b.astype(x.dtype)


def rms(x: jax.Array) -> jax.Array:
    return x * jax.lax.rsqrt(mean(x * x) + 1e-6)


@dataclasses.dataclass(frozen=True)
class Spelling:
    name: str
    function: Callable[..., Any]
    arguments: tuple[jax.Array, ...]
    facts: dict[str, Any]
    op: str = "layer_norm"


SPELLINGS = [
    Spelling("two passes", two_passes, (X,), {"epsilon": pytest.approx(1e-5), "weight": False, "bias": False}),
    Spelling("one pass", one_pass, (X, W, B), {"weight": True, "bias": True, "offset": 0.0}),
    Spelling("rearranged", rearranged, (X, W, B), {"weight": True, "bias": True}),
    Spelling("standardize", lambda x: jax.nn.standardize(x, epsilon=1e-3), (X,), {"epsilon": pytest.approx(1e-3)}),
    Spelling(
        "power",
        lambda x: (x - mean(x)) * jnp.power(jnp.var(x, -1, keepdims=True) + 1e-5, -0.5),
        (X,),
        {"weight": False},
    ),
    Spelling("deviations", lambda x: (x - mean(x)) / jnp.std(x, -1, keepdims=True), (X,), {"epsilon": 0.0}),
    Spelling("bfloat16", narrow, (X.astype(BF16), W, B), {"weight": True, "bias": True}),
    Spelling("offset", lambda x, w: two_passes(x) * (1 + w), (X, W), {"weight": True, "offset": 1.0}),
    Spelling("weights of more dimensions", one_pass, (X, W[None, None], B[None, None]), {"weight": True, "bias": True}),
    Spelling(
        "two axes",
        lambda x: (x - x.mean((1, 2), keepdims=True)) / jnp.sqrt(x.var((1, 2), keepdims=True) + 1e-5),
        (X,),
        {"axes": 2},
    ),
    Spelling("one row", two_passes, (X[0, 0],), {"axes": 1}),
    Spelling("mapped", jax.vmap(jax.vmap(one_pass, (0, None, None)), (0, None, None)), (X, W, B), {"bias": True}),
    Spelling("split rows", lambda x, w, b: one_pass(x.reshape(6, 40), w, b), (X, W, B), {"bias": True}),
    Spelling("after a residual", lambda x, r, w, b: one_pass(x + r, w, b), (X, R, W, B), {"residual": True}),
    Spelling("rms", rms, (X,), {"epsilon": pytest.approx(1e-6), "weight": False}, "rms_norm"),
    Spelling("rms by powers", lambda x, w: w * (x * (mean(x**2) + 1e-6) ** -0.5), (X, W), {"weight": True}, "rms_norm"),
    Spelling(
        "rms, weight first", lambda x, w: (w * x) / jnp.sqrt(mean(x * x) + 1e-6), (X, W), {"weight": True}, "rms_norm"
    ),
    Spelling("rms, offset", lambda x, w: rms(x) * (w + 1), (X, W), {"offset": 1.0}, "rms_norm"),
    Spelling("rms, bias", lambda x, w, b: rms(x) * w + b, (X, W, B), {"bias": True}, "rms_norm"),
    Spelling(
        "rms by sums",
        lambda x, w: x * jax.lax.rsqrt((x * x).sum(-1, keepdims=True) + 4e-5) * w * 40**0.5,
        (X, W),
        {"epsilon": pytest.approx(1e-6)},
        "rms_norm",
    ),
    Spelling(
        "rms, bfloat16",
        lambda x, w: (rms(x.astype(F32)) * (1 + w.astype(F32))).astype(BF16),
        (X.astype(BF16), W.astype(BF16)),
        {"weight": True, "offset": 1.0},
        "rms_norm",
    ),
]


def loss_of(function: Callable[..., Any]) -> Callable[..., Any]:
    def loss(*arguments: jax.Array) -> jax.Array:
        out = function(*arguments).astype(F32)
        return jnp.sum(jnp.sin(out) * jnp.arange(out.size, dtype=F32).reshape(out.shape))

    return loss


IMAGE, C, D = array(2, 3, 4, 12), array(12, seed=1), array(12, seed=2)


def grouped(x: jax.Array, w: jax.Array, b: jax.Array) -> jax.Array:
    groups = x.reshape(*x.shape[:-1], 4, 3)
    axes = (*range(1, x.ndim - 1), x.ndim)
    centred = groups - groups.mean(axes, keepdims=True)
    return (centred * jax.lax.rsqrt(groups.var(axes, keepdims=True) + 1e-5)).reshape(x.shape) * w + b


def over(axes: tuple[int, ...], *dims: int) -> Callable[..., jax.Array]:
    def norm(x: jax.Array, w: jax.Array, b: jax.Array) -> jax.Array:
        n = (x - x.mean(axes, keepdims=True)) * jax.lax.rsqrt(x.var(axes, keepdims=True) + 1e-5)
        return n * w.reshape(dims) + b.reshape(dims)

    return norm


def flax_groups(x: jax.Array, w: jax.Array, b: jax.Array) -> jax.Array:
    norm = pytest.importorskip("flax.linen").GroupNorm(num_groups=4)
    return norm.apply({"params": {"scale": w, "bias": b}}, x)


GROUPS: dict[str, tuple[Callable[..., jax.Array], jax.Array, str, str]] = {
    "groups": (grouped, IMAGE, "p0 n0 n1 (p1 n2)", "(p1 n2)"),
    "instances": (over((1, 2), 12), IMAGE, "p0 n0 n1 p1", "p1"),
    "channels first": (over((1,), 12, 1, 1), IMAGE.transpose(0, 3, 1, 2), "p0 n0 p1 p2", "n0"),
    "flax": (flax_groups, IMAGE, "p0 n0 n1 (p1 n2)", "(p1 n2)"),
}
