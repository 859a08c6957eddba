"""Attention as people write it, and what only looks like it: the programs that the raising tests run on.

Each program is a JAX function with arguments; sizes are small and all different, so that a confused axis cannot hide.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

B, H, G, T, S, D, E = 2, 3, 2, 5, 7, 4, 6


def array(*shape: int, seed: int = 0, dtype: Any = np.float32) -> jax.Array:
    return jnp.asarray(np.random.default_rng([seed, *shape]).standard_normal(shape).astype(np.float32)).astype(dtype)


def mask_of(*shape: int) -> jax.Array:
    keep = np.random.default_rng(7).random(shape) < 0.6
    keep[..., 0] = True
    return jnp.asarray(keep)


@dataclass(frozen=True)
class Program:
    """A function of `arguments`; `facts` are what raising must state, `reason` what it must say where it refuses."""

    name: str
    function: Callable[..., Any]
    arguments: Sequence[Any]
    facts: dict[str, Any] = field(default_factory=dict)
    reason: str = ""


def btnh(t: int = T, s: int = S, dtype: Any = np.float32) -> list[jax.Array]:
    return [
        array(B, t, H, D, seed=1, dtype=dtype),
        array(B, s, H, D, seed=2, dtype=dtype),
        array(B, s, H, E, seed=3, dtype=dtype),
    ]


def scores(q: Any, k: Any) -> Any:
    return jnp.einsum("bthd,bshd->bhts", q, k)


def output(p: Any, v: Any) -> Any:
    return jnp.einsum("bhts,bshe->bthe", p, v)


def attend(x: Any, v: Any) -> Any:
    return output(jax.nn.softmax(x, axis=-1), v)


def causal(x: Any, fill: float = -1e30, offset: int = 0) -> Any:
    t, s = x.shape[-2:]
    return jnp.where(jnp.arange(t)[:, None] + offset >= jnp.arange(s)[None, :], x, fill)


def manual_softmax(x: Any) -> Any:
    e = jnp.exp(x - jnp.max(x, axis=-1, keepdims=True))
    return e / jnp.sum(e, axis=-1, keepdims=True)


def reciprocal_softmax(x: Any) -> Any:
    e = jnp.exp(x - jnp.max(x, axis=-1, keepdims=True))
    return e * (1.0 / jnp.sum(e, axis=-1, keepdims=True))


def bhtd(q: Any, k: Any, v: Any) -> Any:
    return jax.nn.softmax(q @ k.swapaxes(-1, -2) * 0.5, axis=-1) @ v


def grouped_repeat(q: Any, k: Any, v: Any) -> Any:
    return attend(scores(q, jnp.repeat(k, G, axis=2)), jnp.repeat(v, G, axis=2))


def reshaped_groups(q: Any, k: Any, v: Any) -> Any:
    q = q.reshape(B, T, H, G, D)
    x = jnp.einsum("bthgd,bshd->bhgts", q, k)
    return jnp.einsum("bhgts,bshe->bthge", jax.nn.softmax(x, axis=-1), v).reshape(B, T, H * G, E)


def columns_first(q: Any, k: Any, v: Any) -> Any:
    x = jnp.einsum("bshd,bthd->bsht", k, q)
    return jnp.einsum("bsht,bshe->bthe", jax.nn.softmax(x, axis=1), v)


def value_on_the_left(q: Any, k: Any, v: Any) -> Any:
    p = jax.nn.softmax(scores(q, k), axis=-1)
    return jax.lax.dot_general(v, p, (((1,), (3,)), ((0, 2), (0, 1)))).transpose(0, 3, 1, 2)


def bfloat16_with_float32_softmax(q: Any, k: Any, v: Any) -> Any:
    p = jax.nn.softmax(scores(q, k).astype(jnp.float32) / np.sqrt(D), axis=-1)
    return output(p.astype(jnp.bfloat16), v)


def dropout(q: Any, k: Any, v: Any, keep: Any) -> Any:
    p = jax.nn.softmax(scores(q, k), axis=-1)
    return output(jnp.where(keep, p / 0.9, 0.0), v)


def one_query(q: Any, k: Any, v: Any) -> Any:
    p = jax.nn.softmax(jnp.einsum("bhd,bshd->bhs", q, k), axis=-1)
    return jnp.einsum("bhs,bshe->bhe", p, v)


def probabilities_too(q: Any, k: Any, v: Any) -> Any:
    p = jax.nn.softmax(scores(q, k), axis=-1)
    return output(p, v), p


def in_scan(q: Any, k: Any, v: Any) -> Any:
    def step(carry: Any, _: Any) -> Any:
        return attend(scores(carry, k), v)[..., :D], None

    return jax.lax.scan(step, q, None, length=3)[0]


def sink(q: Any, k: Any, v: Any, sinks: Any) -> Any:
    x = scores(q, k)
    column = jnp.broadcast_to(sinks[None, :, None, None], (*x.shape[:-1], 1))
    joined = jnp.concatenate([x, column], axis=-1)
    p = jax.nn.softmax(joined - joined.max(axis=-1, keepdims=True), axis=-1)
    return output(p[..., :-1], v)


def sink_in_the_sum(q: Any, k: Any, v: Any, sinks: Any) -> Any:
    x = scores(q, k)
    column = sinks[None, :, None, None]
    top = jnp.maximum(column, jnp.max(x, axis=-1, keepdims=True))
    e = jnp.exp(x - top)
    return output(e * (1.0 / (jnp.exp(column - top) + jnp.sum(e, axis=-1, keepdims=True))), v)


def stable_sink(q: Any, k: Any, v: Any, sinks: Any) -> Any:
    x, column = scores(q, k), sinks[None, :, None, None]
    top = jnp.maximum(jnp.max(x, axis=-1, keepdims=True), column)
    e = jnp.exp(x - top)
    return output(e / (jnp.sum(e, axis=-1, keepdims=True) + jnp.exp(column - top)), v)


def bands_on_two_axes(q: Any, k: Any, v: Any) -> Any:
    """Groups and rows are both the queries' own; a mask may compare the columns with either."""
    t, g, s = (jnp.arange(S).reshape(shape) for shape in ((S, 1, 1), (1, S, 1), (1, 1, S)))
    x = jnp.einsum("btgd,bsd->btgs", q, k)
    x = jnp.where(s <= g, jnp.where(s <= t, x, -1e9), -1e9)
    return jnp.einsum("btgs,bse->btge", jax.nn.softmax(x, axis=-1), v)


def bias_that_splits_the_rows(q: Any, k: Any, v: Any, bias: Any) -> Any:
    t, s = jnp.arange(8)[:, None, None], jnp.arange(S)
    x = jnp.where(s <= t, jnp.einsum("btgd,bsd->btgs", q, k), -1e9)
    x = x + jnp.broadcast_to(bias[:, None, :], (2, 4, S)).reshape(8, 1, S)
    return jnp.einsum("btgs,bse->btge", jax.nn.softmax(x, axis=-1), v)


def exponentials(x: Any) -> Any:
    return jnp.exp(x - jnp.max(x, axis=-1, keepdims=True))


def deferred(q: Any, k: Any, v: Any) -> Any:
    """The division comes after the product with the values, which is smaller."""
    e = exponentials(scores(q, k) * 0.5)
    return jnp.einsum("bhts,bshe->bhte", e, v) / e.sum(-1, keepdims=True)


def deferred_and_transposed(q: Any, k: Any, v: Any) -> Any:
    e = exponentials(scores(q, k))
    return output(e, v) * (1.0 / e.sum(-1).transpose(0, 2, 1)[..., None])


def deferred_bfloat16(q: Any, k: Any, v: Any) -> Any:
    e = exponentials(scores(q, k).astype(jnp.float32))
    o = jnp.einsum("bhts,bshe->bhte", e.astype(jnp.bfloat16), v, preferred_element_type=jnp.float32)
    return (o / e.sum(-1, keepdims=True)).astype(jnp.bfloat16)


def deferred_with_a_sink(q: Any, k: Any, v: Any, sinks: Any) -> Any:
    x, column = scores(q, k), sinks[None, :, None, None]
    top = jnp.maximum(jnp.max(x, axis=-1, keepdims=True), column)
    e = jnp.exp(x - top)
    return jnp.einsum("bhts,bshe->bhte", e, v) / (e.sum(-1, keepdims=True) + jnp.exp(column - top))


def deferred_with_a_sink_column(q: Any, k: Any, v: Any, sinks: Any) -> Any:
    x = scores(q, k)
    column = jnp.broadcast_to(sinks[None, :, None, None], (*x.shape[:-1], 1))
    e = exponentials(jnp.concatenate([x, column], axis=-1))
    return jnp.einsum("bhts,bshe->bhte", e[..., :-1], v) / e.sum(-1, keepdims=True)


def deferred_under_a_mask(q: Any, k: Any, v: Any, m: Any) -> Any:
    e = jnp.where(m, exponentials(jnp.where(m, scores(q, k), -jnp.inf)), 0.0)
    return jnp.einsum("bhts,bshe->bhte", e, v) / e.sum(-1, keepdims=True)


def logarithmic(q: Any, k: Any, v: Any) -> Any:
    return output(jnp.exp(jax.nn.log_softmax(scores(q, k), axis=-1)), v)


def logarithmic_by_hand(q: Any, k: Any, v: Any) -> Any:
    x = scores(q, k)
    z = x - jax.lax.stop_gradient(jnp.max(x, axis=-1, keepdims=True))
    return output(jnp.exp(z - jnp.log(jnp.sum(jnp.exp(z), axis=-1, keepdims=True))), v)


def logsumexp_subtracted(q: Any, k: Any, v: Any) -> Any:
    x = scores(q, k)
    return output(jnp.exp(x - jax.nn.logsumexp(x, axis=-1, keepdims=True)), v)


def softmax_where(q: Any, k: Any, v: Any, m: Any) -> Any:
    return output(jax.nn.softmax(scores(q, k) * 0.5, axis=-1, where=m), v)


def log_softmax_where(q: Any, k: Any, v: Any, m: Any) -> Any:
    return output(jnp.exp(jax.nn.log_softmax(scores(q, k), axis=-1, where=m)), v)


def masked_weights(q: Any, k: Any, v: Any, m: Any) -> Any:
    """Hidden twice: -inf before the exponential, 0 after it."""
    e = jnp.where(m, exponentials(jnp.where(m, scores(q, k), -jnp.inf)), 0.0)
    return output(e / e.sum(-1, keepdims=True), v)


def guarded_softmax(x: Any) -> Any:
    top = jnp.max(x, axis=-1, keepdims=True)
    e = jnp.exp(x - jnp.where(jnp.isfinite(top), top, 0.0))
    return e / e.sum(-1, keepdims=True)


_bias = array(1, H, T, S, seed=4)
_small_bias = array(B, 1, 1, S, seed=5)
_mask = mask_of(B, 1, T, S)
# One batch element has a query that sees nothing.
_mask_with_an_empty_row = _mask.at[1, 0, 2].set(False)
_keys_mask = mask_of(B, S)

RAISED: list[Program] = [
    Program("no scale", lambda q, k, v: attend(scores(q, k), v), btnh(), {"scale": 1.0, "causal": False}),
    Program("scale on logits", lambda q, k, v: attend(scores(q, k) * 0.25, v), btnh(), {"scale": 0.25}),
    Program("scale by division", lambda q, k, v: attend(scores(q, k) / 8.0, v), btnh(), {"scale": 0.125}),
    Program("scale on queries", lambda q, k, v: attend(scores(q * 0.25, k), v), btnh(), {"scale": 0.25}),
    Program("scale on keys and queries", lambda q, k, v: attend(scores(q / 2.0, k / 4.0), v), btnh(), {"scale": 0.125}),
    Program(
        "scale computed in the graph", lambda q, k, v: attend(scores(q / jnp.sqrt(16.0), k), v), btnh(), {"scale": 0.25}
    ),
    Program("manual softmax", lambda q, k, v: output(manual_softmax(scores(q, k)), v), btnh()),
    Program("softmax by a reciprocal", lambda q, k, v: output(reciprocal_softmax(scores(q, k)), v), btnh()),
    Program("additive bias", lambda q, k, v, b: attend(scores(q, k) * 0.5 + b, v), [*btnh(), _bias], {"scale": 0.5}),
    Program("small additive bias", lambda q, k, v, b: attend(b + scores(q, k), v), [*btnh(), _small_bias]),
    Program("subtracted bias", lambda q, k, v, b: attend(scores(q, k) - b, v), [*btnh(), _bias]),
    Program("mask", lambda q, k, v, m: attend(jnp.where(m, scores(q, k), -1e9), v), [*btnh(), _mask]),
    Program("mask, -inf", lambda q, k, v, m: attend(jnp.where(m, scores(q, k), -jnp.inf), v), [*btnh(), _mask]),
    Program("mask, inverted", lambda q, k, v, m: attend(jnp.where(~m, -1e9, scores(q, k)), v), [*btnh(), _mask]),
    Program(
        "mask of integers",
        lambda q, k, v, m: attend(jnp.where(m != 0, scores(q, k), -1e9), v),
        [*btnh(), _mask.astype(np.int32)],
    ),
    Program(
        "mask as bias",
        lambda q, k, v, m: attend(scores(q, k) + jnp.where(m[:, None, None, :], 0.0, np.finfo(np.float32).min), v),
        [*btnh(), _keys_mask],
    ),
    Program(
        "bias, then mask",
        lambda q, k, v, b, m: attend(jnp.where(m, scores(q, k) + b, -1e30), v),
        [*btnh(), _bias, _mask],
    ),
    Program(
        "mask, then bias",
        lambda q, k, v, b, m: attend(jnp.where(m, scores(q, k), -1e30) + b, v),
        [*btnh(), _bias, _mask],
    ),
    Program("causal", lambda q, k, v: attend(causal(scores(q, k)), v), btnh(), {"causal": True}),
    Program(
        "causal with an offset",
        lambda q, k, v: attend(causal(scores(q, k), offset=S - T), v),
        btnh(),
        {"causal": False},
    ),
    Program(
        "causal by tril",
        lambda q, k, v: attend(jnp.where(jnp.tril(jnp.ones((T, S), bool)), scores(q, k), -1e9), v),
        btnh(),
        {"causal": True},
    ),
    Program(
        "causal by a constant",
        lambda q, k, v: attend(jnp.where(np.tri(T, S, dtype=bool), scores(q, k), -1e9), v),
        btnh(),
        {"causal": True},
    ),
    Program(
        "causal bias",
        lambda q, k, v: attend(scores(q, k) + jnp.where(jnp.tril(jnp.ones((T, S), bool)), 0.0, -1e9), v),
        btnh(),
        {"causal": True},
    ),
    Program(
        "causal and padding",
        lambda q, k, v, m: attend(
            jnp.where(jnp.tril(jnp.ones((T, S), bool)) & m[:, None, None, :], scores(q, k), -1e9), v
        ),
        [*btnh(), _keys_mask],
        {"causal": True},
    ),
    Program(
        "window",
        lambda q, k, v: attend(
            jnp.where(jnp.abs(jnp.arange(T)[:, None] - jnp.arange(S)[None, :]) < 3, scores(q, k), -1e9), v
        ),
        btnh(),
    ),
    Program("soft cap", lambda q, k, v: attend(5.0 * jnp.tanh(scores(q, k) / 5.0), v), btnh(), {"softcap": 5.0}),
    Program("clipped", lambda q, k, v: attend(jnp.clip(scores(q, k), -1.0, 1.0), v), btnh()),
    Program("BHTD", bhtd, [array(B, H, T, D), array(B, H, S, D, seed=2), array(B, H, S, E, seed=3)], {"scale": 0.5}),
    Program("rank 3", bhtd, [array(B, T, D), array(B, S, D, seed=2), array(B, S, E, seed=3)]),
    Program("rank 2", bhtd, [array(T, D), array(S, D, seed=2), array(S, E, seed=3)]),
    Program("vmapped", jax.vmap(bhtd), [array(4, B, T, D), array(4, B, S, D, seed=2), array(4, B, S, E, seed=3)]),
    Program("columns first", columns_first, btnh()),
    Program("value on the left", value_on_the_left, btnh()),
    Program("grouped by repeat", grouped_repeat, [array(B, T, H * G, D), *btnh()[1:]]),
    Program("grouped by reshape", reshaped_groups, [array(B, T, H * G, D), *btnh()[1:]]),
    Program(
        "one shared head",
        lambda q, k, v: jnp.einsum("bhts,bse->bthe", jax.nn.softmax(jnp.einsum("bthd,bsd->bhts", q, k), axis=-1), v),
        [array(B, T, H, D), array(B, S, D, seed=2), array(B, S, E, seed=3)],
    ),
    Program(
        "keys are values",
        lambda q, k: jnp.einsum("ts,sd->td", jax.nn.softmax(q @ k.T, axis=-1), k),
        [array(T, D), array(S, D, seed=2)],
    ),
    Program("bfloat16", lambda q, k, v: attend(scores(q, k), v), btnh(dtype=jnp.bfloat16)),
    Program("bfloat16, float32 softmax", bfloat16_with_float32_softmax, btnh(dtype=jnp.bfloat16)),
    Program("dropout", dropout, [*btnh(), mask_of(B, H, T, S)]),
    Program(
        "head mask",
        lambda q, k, v, h: output(jax.nn.softmax(scores(q, k), axis=-1) * h[None, :, None, None], v),
        [*btnh(), array(H)],
    ),
    Program("one query", one_query, [array(B, H, D), *btnh()[1:]]),
    Program("probabilities escape", probabilities_too, btnh(), {"escapes": True}),
    Program("attention sink", sink, [*btnh(), array(H)]),
    Program("attention sink in the sum", sink_in_the_sum, [*btnh(), array(H)]),
    Program("attention sink under the maximum", stable_sink, [*btnh(), array(H)]),
    Program(
        "bands on two axes",
        bands_on_two_axes,
        [array(B, S, S, D), array(B, S, D, seed=2), array(B, S, E, seed=3)],
    ),
    Program(
        "bias that splits the rows",
        bias_that_splits_the_rows,
        [array(B, 8, 3, D), array(B, S, D, seed=2), array(B, S, E, seed=3), array(2, S)],
    ),
    Program("inside scan", in_scan, btnh(t=T)),
    Program("guarded maximum", lambda q, k, v: output(guarded_softmax(scores(q, k)), v), btnh()),
    Program("division deferred", deferred, btnh(), {"scale": 0.5, "escapes": False}),
    Program("division deferred, by a reciprocal", deferred_and_transposed, btnh(), {"escapes": False}),
    Program("division deferred, bfloat16", deferred_bfloat16, btnh(dtype=jnp.bfloat16), {"escapes": False}),
    Program("division deferred, sink", deferred_with_a_sink, [*btnh(), array(H)]),
    Program("division deferred, sink column", deferred_with_a_sink_column, [*btnh(), array(H)], {"escapes": False}),
    Program("division deferred, mask", deferred_under_a_mask, [*btnh(), _mask_with_an_empty_row]),
    Program("exp of log_softmax", logarithmic, btnh(), {"escapes": False}),
    Program("exp of log_softmax by hand", logarithmic_by_hand, btnh(), {"escapes": False}),
    Program("softmax where", softmax_where, [*btnh(), _mask_with_an_empty_row], {"scale": 0.5, "escapes": False}),
    Program(
        "softmax where causal",
        lambda q, k, v: softmax_where(q, k, v, jnp.tril(jnp.ones((T, S), bool))),
        btnh(),
        {"escapes": False},
    ),
    Program("exp of log_softmax where", log_softmax_where, [*btnh(), _mask_with_an_empty_row], {"escapes": False}),
    Program("masked weights", masked_weights, [*btnh(), _mask_with_an_empty_row], {"escapes": False}),
    Program(
        "jax.nn, causal",
        lambda q, k, v: jax.nn.dot_product_attention(q, k, v, is_causal=True),
        [array(B, S, H, D, seed=i) for i in range(3)],
        {"causal": True},
    ),
]


def _sink_beside_the_maximum(q: Any, k: Any, v: Any, sinks: Any) -> Any:
    x = scores(q, k)
    top = jnp.max(x, axis=-1, keepdims=True)
    e = jnp.exp(x - top)
    return output(e / (jnp.sum(e, axis=-1, keepdims=True) + jnp.exp(sinks[None, :, None, None] - top)), v)


def _wrong_axis(q: Any, k: Any, v: Any) -> Any:
    return output(jax.nn.softmax(scores(q, k), axis=-2), v)


def _no_maximum(q: Any, k: Any, v: Any) -> Any:
    e = jnp.exp(scores(q, k))
    return output(e / e.sum(-1, keepdims=True), v)


def _epsilon(q: Any, k: Any, v: Any) -> Any:
    x = scores(q, k)
    e = jnp.exp(x - x.max(-1, keepdims=True))
    return output(e / (e.sum(-1, keepdims=True) + 1e-6), v)


def _wrong_rows(q: Any, k: Any, v: Any) -> Any:
    x = scores(q, k)
    e = jnp.exp(x - x.max(-1, keepdims=True))
    return output(e / e.sum(-1)[:, :, ::-1, None], v)


def _rounded(x: Any) -> Any:
    return x.astype(jnp.int32).astype(jnp.float32)


def _integer_sum(q: Any, k: Any, v: Any) -> Any:
    x = scores(q, k)
    e = jnp.exp(x - x.max(-1, keepdims=True))
    return output(e / (_rounded(e.sum(-1, keepdims=True))), v)


def _foreign_shift(q: Any, k: Any, v: Any, sinks: Any) -> Any:
    """Rows and heads are equally many; the sink is shifted by the maximum of another row."""
    x = scores(q, k)
    top = jnp.max(x, axis=-1)
    e = jnp.exp(x - top[..., None])
    return output(
        e / (jnp.exp(sinks[None, :, None, None] - top.swapaxes(1, 2)[..., None]) + e.sum(-1, keepdims=True)), v
    )


def _two_shifts(q: Any, k: Any, v: Any, sinks: Any) -> Any:
    """The sink stands beside the logits after the first shift, not before it."""
    x = scores(q, k)
    z = x - jnp.max(x, axis=-1, keepdims=True)
    top = jnp.max(z, axis=-1, keepdims=True)
    e = jnp.exp(z - top)
    return output(e / (jnp.exp(sinks[None, :, None, None] - top) + e.sum(-1, keepdims=True)), v)


def _squared(q: Any, k: Any, v: Any) -> Any:
    p = jax.nn.softmax(scores(q, k), axis=-1)
    return output(p * p, v)


def _deferred_by(normaliser: Callable[[Any], Any]) -> Callable[..., Any]:
    """exp(x - max) v divided by `normaliser` of the exponentials."""

    def attention(q: Any, k: Any, v: Any) -> Any:
        e = exponentials(scores(q, k))
        return jnp.einsum("bhts,bshe->bhte", e, v) / normaliser(e)

    return attention


def _deferred_dropout(q: Any, k: Any, v: Any, keep: Any) -> Any:
    e = exponentials(scores(q, k))
    return jnp.einsum("bhts,bshe->bhte", jnp.where(keep, e, 0.0), v) / e.sum(-1, keepdims=True)


def _deferred_without_maximum(q: Any, k: Any, v: Any) -> Any:
    e = jnp.exp(scores(q, k))
    return jnp.einsum("bhts,bshe->bhte", e, v) / e.sum(-1, keepdims=True)


def _hidden_too_late(q: Any, k: Any, v: Any, m: Any) -> Any:
    """What the mask hides still is part of the maximum: where it is far above the rest, the rest underflows."""
    e = jnp.where(m, exponentials(scores(q, k)), 0.0)
    return output(e / e.sum(-1, keepdims=True), v)


def _multiplied_too_late(q: Any, k: Any, v: Any, m: Any) -> Any:
    e = exponentials(scores(q, k)) * m
    return output(e / e.sum(-1, keepdims=True), v)


def _guarded_dropout(q: Any, k: Any, v: Any, keep: Any) -> Any:
    """A logit of +inf makes its own probability NaN and those beside it 0; the dropout may hide the NaN."""
    return output(jnp.where(keep, guarded_softmax(scores(q, k)), 0.0), v)


def _shifted_by(shift: Callable[[Any], Any]) -> Callable[..., Any]:
    """exp(x - shift) over its sum: a softmax in exact arithmetic, whatever the shift."""

    def attention(q: Any, k: Any, v: Any) -> Any:
        x = scores(q, k)
        e = jnp.exp(x - shift(x))
        return output(e / e.sum(-1, keepdims=True), v)

    return attention


def _bounded_below_by_a_foreign_number(q: Any, k: Any, v: Any, c: Any) -> Any:
    x = scores(q, k)
    e = jnp.exp(x - jnp.maximum(x.max(-1, keepdims=True), c[None, :, None, None]))
    return output(e / e.sum(-1, keepdims=True), v)


def _other_rows_logarithm(q: Any, k: Any, v: Any) -> Any:
    """Rows and heads are equally many."""
    x = scores(q, k)
    z = x - jnp.max(x, axis=-1, keepdims=True)
    return output(jnp.exp(z - jnp.log(jnp.exp(z).sum(-1)).swapaxes(1, 2)[..., None]), v)


def _logsumexp_of_what_is_shifted(q: Any, k: Any, v: Any) -> Any:
    """The maximum is subtracted twice, and counted once."""
    x = scores(q, k)
    z = x - jnp.max(x, axis=-1, keepdims=True)
    return output(jnp.exp(z - jax.nn.logsumexp(x, axis=-1, keepdims=True)), v)


REFUSED: list[Program] = [
    Program(
        "deferred by another row's sum",
        _deferred_by(lambda e: e.sum(-1).swapaxes(1, 2)[..., None]),
        btnh(t=H),
        reason="the sum of another row",
    ),
    Program(
        "deferred with an epsilon",
        _deferred_by(lambda e: e.sum(-1, keepdims=True) + 1e-6),
        btnh(),
        reason="more than its own sum",
    ),
    Program("deferred after a dropout", _deferred_dropout, [*btnh(), mask_of(B, H, T, S)], reason="masked before"),
    Program("deferred without a maximum", _deferred_without_maximum, btnh(), reason="without subtracting the row"),
    Program("mask after the exponentials", _hidden_too_late, [*btnh(), _mask], reason="and not the logits"),
    Program(
        "product with a mask after the exponentials",
        _multiplied_too_late,
        [*btnh(), _mask.astype(np.float32)],
        reason="and not the logits",
    ),
    Program(
        "attention sink beside the maximum", _sink_beside_the_maximum, [*btnh(), array(H)], reason="leaves out the"
    ),
    Program("guarded maximum and a dropout", _guarded_dropout, [*btnh(), mask_of(B, H, T, S)], reason="guards against"),
    Program("maximum of everything", _shifted_by(jnp.max), btnh(), reason="without subtracting the row maximum"),
    Program(
        "mean subtracted",
        _shifted_by(lambda x: x.mean(-1, keepdims=True)),
        btnh(),
        reason="without subtracting the row maximum",
    ),
    Program(
        "maximum from zero up",
        _shifted_by(lambda x: jnp.max(x, axis=-1, keepdims=True, initial=0.0)),
        btnh(),
        reason="without subtracting the row maximum",
    ),
    Program(
        "maximum with a foreign number",
        _bounded_below_by_a_foreign_number,
        [*btnh(), array(H)],
        reason="without subtracting the row maximum",
    ),
    Program("logsumexp subtracted", logsumexp_subtracted, btnh(), reason="the sum is lost"),
    Program("logarithm of another row's sum", _other_rows_logarithm, btnh(t=H), reason="another row's"),
    Program("logsumexp of what is shifted", _logsumexp_of_what_is_shifted, btnh(), reason="the sum is lost"),
    Program("rounded logits", lambda q, k, v: attend(_rounded(scores(q, k)), v), btnh(), reason="but from convert"),
    Program(
        "rounded probabilities",
        lambda q, k, v: output(_rounded(jax.nn.softmax(scores(q, k) * 5.0, axis=-1) * 8.0), v),
        btnh(),
        reason="do not go into a product",
    ),
    Program("rounded sum", _integer_sum, btnh(), reason="the sum of another row"),
    Program("sink with a foreign shift", _foreign_shift, [*btnh(t=H), array(H)], reason="more than its own sum"),
    Program(
        "probabilities alone",
        lambda q, k: jax.nn.softmax(scores(q, k), axis=-1),
        btnh()[:2],
        reason="do not go into a product with values",
    ),
    Program("softmax over the queries", _wrong_axis, btnh(t=S), reason="does not sum over the softmax's own axis"),
    Program("no maximum", _no_maximum, btnh(), reason="without subtracting the row maximum"),
    Program("epsilon in the denominator", _epsilon, btnh(), reason="more than its own sum"),
    Program("rows exchanged", _wrong_rows, btnh(), reason="more than its own sum"),
    Program(
        "exponential of logits", lambda q, k, v: attend(jnp.exp(scores(q, k)), v), btnh(), reason="but from exponential"
    ),
    Program(
        "no product of queries and keys",
        lambda x, v: attend(-jnp.abs(x), v),
        [array(B, H, T, S), btnh()[2]],
        reason="but from abs",
    ),
    Program(
        "two softmax axes",
        lambda q, k, v: output(jax.nn.softmax(scores(q, k), axis=(-1, -2)), v),
        btnh(),
        reason="2 dimensions at once",
    ),
    Program(
        "one vector weighs the rows",
        lambda x, w: jnp.einsum("bs,bsd->bd", jax.nn.softmax(jnp.einsum("bsd,d->bs", x, w), axis=-1), x),
        [array(B, S, D), array(D)],
        reason="batch axis that the queries lack",
    ),
    Program("squared probabilities", _squared, btnh(), reason="combined with themselves"),
]


def _gated(x: Any, w: Any) -> Any:
    """Each sum has a product on both sides: the ways up are 2 to the 30."""
    for i in range(30):
        y = x @ w[i]
        x = y + y * jnp.tanh(w[i, 0])
    return jax.nn.softmax(x, axis=-1)


# Programs with a softmax that nobody would call attention: neither raised nor remarked on.
UNRELATED: list[Program] = [
    Program("exponentials that are not normalised", lambda q, k, v: output(exponentials(scores(q, k)), v), btnh()),
    Program(
        "sums and products of exponentials",
        lambda q, k, v: (output(exponentials(scores(q, k)), v), exponentials(scores(q, k)).sum(-1)),
        btnh(),
    ),
    Program("logsumexp", lambda q, k: jax.nn.logsumexp(scores(q, k), axis=-1), btnh()[:2]),
    Program(
        "gradient of the cross-entropy",
        lambda x, w: jax.grad(lambda w: -jnp.mean(jax.nn.log_softmax(x @ w)[:, 0]))(w),
        [array(B, D), array(D, S)],
    ),
    Program("classifier", lambda x, w: jax.nn.softmax(x @ w, axis=-1), [array(B, D), array(D, S)]),
    Program("cross-entropy", lambda x, w: -jnp.mean(jax.nn.log_softmax(x @ w)[:, 0]), [array(B, D), array(D, S)]),
    Program("gates in every layer", _gated, [array(B, D), array(30, D, D)]),
    Program("no softmax", lambda a, b: jnp.tanh(a @ b), [array(T, D), array(D, S)]),
]
