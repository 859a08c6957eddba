"""Rotary position embeddings as programs write them, and programs that only resemble them."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

B, T, H, D = 2, 6, 3, 8
BF16, F32 = jnp.bfloat16, jnp.float32


def array(*shape: int, seed: int = 0, dtype: Any = F32) -> jax.Array:
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), dtype)


@dataclasses.dataclass(frozen=True)
class Program:
    """A function whose first argument is rotated, and what a zenith.rotary says of it."""

    name: str
    function: Callable[..., Any]
    arguments: tuple[Any, ...]
    pairing: str = "half"
    rotated: int = D
    features: int = D
    table: str = "t r"


X = array(B, T, H, D)
ANGLES = array(T, D // 2, seed=1)
BATCHED = array(B, T, D // 2, seed=1)


def tables(angles: Any) -> tuple[Any, Any]:
    return jnp.cos(angles)[..., :, None, :], jnp.sin(angles)[..., :, None, :]


def halves(x: Any, angles: Any) -> Any:
    cos, sin = tables(angles)
    a, b = jnp.split(x, 2, axis=-1)
    return jnp.concatenate([a * cos - b * sin, b * cos + a * sin], axis=-1)


def rotate_half(x: Any) -> Any:
    a, b = jnp.split(x, 2, axis=-1)
    return jnp.concatenate([-b, a], axis=-1)


def full_tables(x: Any, angles: Any) -> Any:
    cos, sin = tables(jnp.concatenate([angles, angles], axis=-1))
    return x * cos + rotate_half(x) * sin


def joined_tables(x: Any, angles: Any) -> Any:
    cos, sin = (jnp.concatenate([t, t], axis=-1) for t in tables(angles))
    return x * cos + rotate_half(x) * sin


def tiled_tables(x: Any, angles: Any) -> Any:
    cos, sin = (jnp.tile(t, (1, 1, 2)) for t in tables(angles))
    return rotate_half(x) * sin + x * cos


def strided(x: Any, angles: Any) -> Any:
    cos, sin = tables(angles)
    a, b = x[..., ::2], x[..., 1::2]
    return jnp.stack([a * cos - b * sin, a * sin + b * cos], axis=-1).reshape(x.shape)


def rotate_every_two(x: Any, angles: Any) -> Any:
    cos, sin = (jnp.repeat(t, 2, axis=-1) for t in tables(angles))
    turned = jnp.stack([-x[..., 1::2], x[..., ::2]], axis=-1).reshape(x.shape)
    return x * cos + turned * sin


def pairs(x: Any, angles: Any) -> Any:
    cos, sin = tables(angles)
    rows = x.reshape(*x.shape[:-1], -1, 2)
    a, b = rows[..., 0], rows[..., 1]
    return jnp.stack([a * cos - b * sin, b * cos + a * sin], axis=-1).reshape(x.shape)


def pairs_in_columns(x: Any, angles: Any) -> Any:
    """The pairs are the columns of a [2, d/2] matrix."""
    cos, sin = tables(angles)
    rows = x.reshape(*x.shape[:-1], 2, -1)
    a, b = rows[..., 0, :], rows[..., 1, :]
    return jnp.stack([a * cos - b * sin, b * cos + a * sin], axis=-2).reshape(x.shape)


def complex_numbers(x: Any, angles: Any) -> Any:
    cos, sin = tables(angles)
    turned = jax.lax.complex(x[..., ::2], x[..., 1::2]) * jax.lax.complex(cos, sin)
    return jnp.stack([turned.real, turned.imag], axis=-1).reshape(x.shape)


def complex_halves(x: Any, angles: Any) -> Any:
    cos, sin = tables(angles)
    a, b = jnp.split(x, 2, axis=-1)
    turned = jax.lax.complex(a, b) * jax.lax.complex(cos, sin)
    return jnp.concatenate([turned.real, turned.imag], axis=-1)


def rolled(x: Any, angles: Any) -> Any:
    """Half the features on, with signs in the table."""
    cos, sin = tables(angles)
    cos, sin = jnp.concatenate([cos, cos], axis=-1), jnp.concatenate([-sin, sin], axis=-1)
    return x * cos + jnp.roll(x, x.shape[-1] // 2, axis=-1) * sin


def signed(x: Any, angles: Any) -> Any:
    cos, sin = (jnp.concatenate([t, t], axis=-1) for t in tables(angles))
    sign = np.repeat([-1.0, 1.0], D // 2).astype(np.float32)
    return x * cos + jnp.roll(x, D // 2, axis=-1) * sign * sin


def flipped(x: Any, angles: Any) -> Any:
    cos, sin = (jnp.repeat(t, 2, axis=-1) for t in tables(angles))
    swapped = jnp.flip(x.reshape(*x.shape[:-1], -1, 2), axis=-1).reshape(x.shape)
    return x * cos + swapped * np.tile(np.float32([-1, 1]), D // 2) * sin


def matrix(x: Any, angles: Any) -> Any:
    """The pairs are exchanged by a product with a constant matrix."""
    cos, sin = (jnp.repeat(t, 2, axis=-1) for t in tables(angles))
    exchange = np.zeros((D, D), np.float32)
    exchange[np.arange(1, D, 2), np.arange(0, D, 2)] = -1
    exchange[np.arange(0, D, 2), np.arange(1, D, 2)] = 1
    return x * cos + x @ exchange * sin


def selected(x: Any, angles: Any) -> Any:
    cos, sin = (jnp.repeat(t, 2, axis=-1) for t in tables(angles))
    even = jnp.arange(D) % 2 == 0
    return x * cos + jnp.where(even, -jnp.roll(x, -1, axis=-1), jnp.roll(x, 1, axis=-1)) * sin


def taken(x: Any, angles: Any) -> Any:
    cos, sin = (jnp.concatenate([t, t], axis=-1) for t in tables(angles))
    order = np.concatenate([np.arange(D // 2, D), np.arange(D // 2)])
    sign = np.repeat([-1.0, 1.0], D // 2).astype(np.float32)
    return x * cos + x[..., order] * sign * sin


def written(x: Any, angles: Any) -> Any:
    cos, sin = tables(angles)
    a, b = x[..., ::2], x[..., 1::2]
    return jnp.zeros_like(x).at[..., ::2].set(a * cos - b * sin).at[..., 1::2].set(b * cos + a * sin)


def written_halves(x: Any, angles: Any) -> Any:
    cos, sin = tables(angles)
    a, b = x[..., : D // 2], x[..., D // 2 :]
    return x.at[..., : D // 2].set(a * cos - b * sin).at[..., D // 2 :].set(b * cos + a * sin)


def updated_slices(x: Any, angles: Any) -> Any:
    cos, sin = tables(angles)
    a, b = x[..., : D // 2], x[..., D // 2 :]
    out = jax.lax.dynamic_update_slice(x, a * cos - b * sin, (0, 0, 0, 0))
    return jax.lax.dynamic_update_slice(out, b * cos + a * sin, (0, 0, 0, D // 2))


def multiplied_matrices(x: Any, angles: Any) -> Any:
    """Each pair is multiplied by the columns of a matrix."""
    cos, sin = tables(angles)
    turn = jnp.stack([cos, -sin, sin, cos], axis=-1).reshape(*cos.shape, 2, 2)
    rows = x.reshape(*x.shape[:-1], -1, 1, 2)
    return (turn[..., 0] * rows[..., 0] + turn[..., 1] * rows[..., 1]).reshape(x.shape)


def partial(rotate: Callable[..., Any], rotated: int = D // 2) -> Callable[..., Any]:
    def function(x: Any, angles: Any) -> Any:
        turned = rotate(x[..., :rotated], angles[..., : rotated // 2])
        return jnp.concatenate([turned, x[..., rotated:]], axis=-1)

    return function


def gathered(x: Any, angles: Any, positions: Any) -> Any:
    both = jnp.concatenate([jnp.sin(angles), jnp.cos(angles)], axis=-1)[positions]
    sin, cos = jnp.split(both, 2, axis=-1)
    sin, cos = sin[:, :, None, :], cos[:, :, None, :]
    a, b = jnp.split(x, 2, axis=-1)
    return jnp.concatenate([a * cos - b * sin, b * cos + a * sin], axis=-1)


def heads_first(x: Any, angles: Any) -> Any:
    cos, sin = jnp.cos(angles), jnp.sin(angles)
    a, b = jnp.split(x.transpose(0, 2, 1, 3), 2, axis=-1)
    return jnp.concatenate([a * cos - b * sin, b * cos + a * sin], axis=-1)


def transposed_pieces(x: Any, angles: Any) -> Any:
    cos, sin = jnp.cos(angles), jnp.sin(angles)
    a, b = (half.transpose(0, 2, 1, 3) for half in jnp.split(x, 2, axis=-1))
    return jnp.concatenate([a * cos - b * sin, b * cos + a * sin], axis=-1)


def merged_heads(x: Any, angles: Any) -> Any:
    return halves(x.reshape(B, T, H, D), angles).reshape(B, T, H * D)


def wide(rotate: Callable[..., Any]) -> Callable[..., Any]:
    return lambda x, angles: rotate(x.astype(F32), angles).astype(x.dtype)


def narrow_tables(x: Any, angles: Any) -> Any:
    cos, sin = (t.astype(x.dtype) for t in tables(angles))
    a, b = jnp.split(x, 2, axis=-1)
    return jnp.concatenate([a * cos - b * sin, b * cos + a * sin], axis=-1)


def wide_pieces(x: Any, angles: Any) -> Any:
    """bfloat16 halves meet float32 tables; the result is rounded."""
    return halves(x, angles).astype(x.dtype)


def scaled_tables(x: Any, angles: Any) -> Any:
    cos, sin = (1.2 * t for t in tables(angles))
    a, b = jnp.split(x, 2, axis=-1)
    return jnp.concatenate([a * cos - b * sin, b * cos + a * sin], axis=-1)


def one_head(x: Any, angles: Any) -> Any:
    return halves(x, angles)


def mapped(x: Any, angles: Any) -> Any:
    def one(x: Any, angles: Any) -> Any:
        a, b = jnp.split(x, 2, axis=-1)
        return jnp.concatenate(
            [a * jnp.cos(angles) - b * jnp.sin(angles), b * jnp.cos(angles) + a * jnp.sin(angles)], -1
        )

    return jax.vmap(jax.vmap(one, in_axes=(1, None), out_axes=1), in_axes=(0, None))(x, angles)


def merged_pairs(x: Any, angles: Any) -> Any:
    """Heads and neighbours are taken apart at once."""
    return pairs(x.reshape(B, T, H, D), angles).reshape(x.shape)


def features_first(x: Any, angles: Any) -> Any:
    return halves(x.transpose(1, 2, 3, 0), angles)


def complex_table(x: Any, table: Any) -> Any:
    turned = jax.lax.complex(x[..., ::2], x[..., 1::2]) * table[:, None, :]
    return jnp.stack([turned.real, turned.imag], axis=-1).reshape(x.shape)


def complex_arithmetic(x: Any, angles: Any) -> Any:
    turned = (x[..., ::2] + 1j * x[..., 1::2]) * jnp.exp(1j * angles)[:, None]
    return jnp.stack([turned.real, turned.imag], axis=-1).reshape(x.shape)


def negated(x: Any, angles: Any) -> Any:
    cos, sin = tables(angles)
    a, b = jnp.split(x, 2, axis=-1)
    return jnp.concatenate([-(b * sin) + a * cos, -(-(a * sin) - b * cos)], axis=-1)


def in_scan(x: Any, angles: Any) -> Any:
    return jax.lax.scan(lambda x, _: (jnp.tanh(halves(x, angles)), None), x, None, length=3)[0]


RAISED = [
    Program("halves", halves, (X, ANGLES)),
    Program("full tables", full_tables, (X, ANGLES)),
    Program("joined tables", joined_tables, (X, ANGLES)),
    Program("tiled tables", tiled_tables, (X, ANGLES)),
    Program("strided", strided, (X, ANGLES), "interleaved"),
    Program("rotate every two", rotate_every_two, (X, ANGLES), "interleaved"),
    Program("pairs", pairs, (X, ANGLES), "interleaved"),
    Program("pairs in columns", pairs_in_columns, (X, ANGLES)),
    Program("complex numbers", complex_numbers, (X, ANGLES), "interleaved"),
    Program("complex halves", complex_halves, (X, ANGLES)),
    Program("rolled", rolled, (X, ANGLES)),
    Program("signed", signed, (X, ANGLES)),
    Program("flipped", flipped, (X, ANGLES), "interleaved"),
    Program("matrix", matrix, (X, ANGLES), "interleaved"),
    Program("selected", selected, (X, ANGLES), "interleaved"),
    Program("taken", taken, (X, ANGLES)),
    Program("written", written, (X, ANGLES), "interleaved"),
    Program("written halves", written_halves, (X, ANGLES)),
    Program("updated slices", updated_slices, (X, ANGLES)),
    Program("multiplied matrices", multiplied_matrices, (X, ANGLES), "interleaved"),
    Program("partial", partial(halves), (X, ANGLES), rotated=4),
    Program("partial, full tables", partial(full_tables), (X, ANGLES), rotated=4),
    Program("partial, interleaved", partial(rotate_every_two, 6), (X, ANGLES), "interleaved", rotated=6),
    Program("gathered", gathered, (X, array(9, D // 2, seed=1), np.arange(B * T).reshape(B, T) % 9), table="b t r"),
    Program("positions of a batch", halves, (X, BATCHED), table="b t r"),
    Program("heads first", heads_first, (X, ANGLES)),
    Program("transposed pieces", transposed_pieces, (X, ANGLES)),
    Program("merged heads", merged_heads, (X.reshape(B, T, H * D), ANGLES)),
    Program("bfloat16", wide(halves), (X.astype(BF16), ANGLES)),
    Program("bfloat16, full tables", wide(full_tables), (X.astype(BF16), ANGLES)),
    Program("bfloat16 tables", narrow_tables, (X.astype(BF16), ANGLES)),
    Program("bfloat16 pieces", wide_pieces, (X.astype(BF16), ANGLES)),
    Program("bfloat16, strided", wide(strided), (X.astype(BF16), ANGLES), "interleaved"),
    Program("scaled tables", scaled_tables, (X, ANGLES), table="t 1 r"),
    Program("one head", one_head, (X[:1, :, :1], ANGLES)),
    Program("mapped", mapped, (X, ANGLES)),
    Program("merged pairs", merged_pairs, (X.reshape(B, T, H * D), ANGLES), "interleaved"),
    Program("features first", features_first, (X.transpose(3, 0, 1, 2), ANGLES)),
    Program("complex table", complex_table, (X, jnp.exp(1j * ANGLES)), "interleaved"),
    Program("complex arithmetic", complex_arithmetic, (X, ANGLES), "interleaved"),
    Program("negated", negated, (X, ANGLES)),
    Program("in scan", in_scan, (X, ANGLES)),
]


def added(x: Any, angles: Any) -> Any:
    cos, sin = tables(angles)
    a, b = jnp.split(x, 2, axis=-1)
    return jnp.concatenate([a * cos + b * sin, b * cos + a * sin], axis=-1)


def subtracted(x: Any, angles: Any) -> Any:
    cos, sin = tables(angles)
    a, b = jnp.split(x, 2, axis=-1)
    return jnp.concatenate([a * cos - b * sin, b * cos - a * sin], axis=-1)


def backwards(x: Any, angles: Any) -> Any:
    cos, sin = tables(angles)
    a, b = jnp.split(x, 2, axis=-1)
    return jnp.concatenate([a * cos + b * sin, b * cos - a * sin], axis=-1)


def exchanged(x: Any, angles: Any) -> Any:
    cos, sin = tables(angles)
    a, b = jnp.split(x, 2, axis=-1)
    return jnp.concatenate([b * cos + a * sin, a * cos - b * sin], axis=-1)


def two_angles(x: Any, angles: Any) -> Any:
    (cos, sin), (more_cos, more_sin) = tables(angles), tables(2 * angles)
    a, b = jnp.split(x, 2, axis=-1)
    return jnp.concatenate([a * cos - b * sin, b * more_cos + a * more_sin], axis=-1)


def another_order(x: Any, angles: Any) -> Any:
    """Neighbours are rotated and put into halves."""
    cos, sin = tables(angles)
    a, b = x[..., ::2], x[..., 1::2]
    return jnp.concatenate([a * cos - b * sin, b * cos + a * sin], axis=-1)


def shifted_pairs(x: Any, angles: Any) -> Any:
    """Pairs (0, 3), (1, 2), (4, 7), (5, 6)."""
    cos, sin = (jnp.repeat(t, 2, axis=-1) for t in tables(angles))
    order = np.arange(D).reshape(-1, 4)[:, ::-1].ravel()
    return x * cos + x[..., order] * np.tile(np.float32([-1, -1, 1, 1]), D // 4) * sin


NEAR_MISSES = [
    (Program("added", added, (X, ANGLES)), "same sign"),
    (Program("subtracted", subtracted, (X, ANGLES)), "same sign"),
    (Program("added, partial", partial(added), (X, ANGLES)), "same sign"),
    (Program("backwards", backwards, (X, ANGLES)), "backwards"),
    (Program("exchanged", exchanged, (X, ANGLES)), "same sign"),
    (Program("two angles", two_angles, (X, ANGLES)), "different tables"),
    (Program("another order", another_order, (X, ANGLES)), "order of the result"),
    (Program("shifted pairs", shifted_pairs, (X, ANGLES)), "pairs"),
]


def three_terms(x: Any, angles: Any) -> Any:
    cos, sin = tables(angles)
    a, b = jnp.split(x, 2, axis=-1)
    return jnp.concatenate([a * cos - b * sin + a, b * cos + a * sin + b], axis=-1)


def two_tensors(x: Any, y: Any, angles: Any) -> Any:
    cos, sin = tables(angles)
    return jnp.concatenate([x * cos - y * sin, y * cos + x * sin], axis=-1)


def gated(x: Any) -> Any:
    a, b = jnp.split(x, 2, axis=-1)
    return jnp.concatenate([a * jax.nn.sigmoid(b), b + a], axis=-1)


def mixed(x: Any, angles: Any) -> Any:
    a, b = jnp.split(x, 2, axis=-1)
    return a * jnp.cos(angles)[:, None] + b * jnp.sin(angles)[:, None]


def token_shift(x: Any, mu: Any) -> Any:
    before = jnp.pad(x, ((0, 0), (1, 0), (0, 0), (0, 0)))[:, :-1]
    return x * mu + before * (1 - mu)


UNRELATED = [
    Program("three terms", three_terms, (X, ANGLES)),
    Program("two tensors", two_tensors, (X[..., :4], X[..., 4:] + 1, ANGLES)),
    Program("gated", gated, (X,)),
    Program("mixed", mixed, (X, ANGLES)),
    Program("token shift", token_shift, (X, array(D))),
    Program("split and joined", lambda x: jnp.concatenate(jnp.split(x, 2, axis=-1)[::-1], axis=-1), (X,)),
    Program("padded sums", lambda x: jnp.pad(x[..., :4], [(0, 0)] * 3 + [(4, 0)]) + x, (X,)),
]
