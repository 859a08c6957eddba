"""Cross-entropy as people write it, and what only looks like it: the programs that the raising tests run on.

Each is a function of logits [B, T, V] or [N, V], of integer labels and perhaps of weights, that returns a number. Sizes
are small and all different, so that a confused axis cannot hide.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

B, T, V = 2, 5, 11


def array(*shape: int, seed: int = 0, dtype: Any = np.float32) -> jax.Array:
    return jnp.asarray(2 * np.random.default_rng([seed, *shape]).standard_normal(shape)).astype(dtype)


def labels(*shape: int, low: int = 0, dtype: Any = np.int32) -> jax.Array:
    return jnp.asarray(np.random.default_rng([3, *shape]).integers(low, V, shape)).astype(dtype)


X, L, W = array(B, T, V), labels(B, T), jnp.asarray(np.random.default_rng(5).random((B, T)) < 0.7, np.float32)
IGNORED = L.at[0, 1].set(-100).at[1, 3].set(-100)
HALF = X.astype(jnp.bfloat16)
ROW, LABEL = X[0], L[0]


@dataclass(frozen=True)
class Program:
    """`facts` are attributes of the composites, `reason` what raising must say where it refuses."""

    name: str
    function: Callable[..., Any]
    arguments: Sequence[Any]
    facts: dict[str, Any] = field(default_factory=dict)
    reason: str = ""


def integer(x: Any, y: Any, axis: int = -1) -> Any:
    return optax.softmax_cross_entropy_with_integer_labels(x, y, axis=axis)


def one_hot(x: Any, y: Any) -> Any:
    return optax.softmax_cross_entropy(x, jax.nn.one_hot(y, x.shape[-1]))


def smoothed(x: Any, y: Any, alpha: float = 0.1) -> Any:
    return optax.softmax_cross_entropy(x, optax.smooth_labels(jax.nn.one_hot(y, x.shape[-1]), alpha))


def picked(x: Any, y: Any) -> Any:
    return jnp.take_along_axis(x, y[..., None], axis=-1)[..., 0]


def negative_log_likelihood(x: Any, y: Any) -> Any:
    return -picked(jax.nn.log_softmax(x), y)


def by_index(x: Any, y: Any) -> Any:
    return -jax.nn.log_softmax(x)[jnp.arange(y.shape[0]), y]


def by_where(x: Any, y: Any) -> Any:
    return -jnp.where(y[..., None] == jnp.arange(V), jax.nn.log_softmax(x), 0).sum(-1)


def by_einsum(x: Any, y: Any) -> Any:
    return -jnp.einsum("btv,btv->bt", jax.nn.one_hot(y, V), jax.nn.log_softmax(x))


def lse_minus_one_hot(x: Any, y: Any) -> Any:
    return jax.nn.logsumexp(x, -1) - (jax.nn.one_hot(y, V) * x).sum(-1)


def clipped_labels(x: Any, y: Any) -> Any:
    return -jnp.take_along_axis(jax.nn.log_softmax(x), y[..., None], -1, mode="clip")


def weights_inside(x: Any, y: Any, w: Any) -> Any:
    return -(w[..., None] * jax.nn.one_hot(y, V) * jax.nn.log_softmax(x)).sum(-1)


def no_maximum(x: Any, y: Any) -> Any:
    return (jnp.log(jnp.exp(x).sum(-1)) - picked(x, y)).mean()


def log_softmax_kept(x: Any, y: Any) -> Any:
    log_p = jax.nn.log_softmax(x)
    return -picked(log_p, y).mean() + jnp.sum(jnp.sin(log_p))


def by_hand(x: Any, y: Any) -> Any:
    shifted = x - jnp.max(x, axis=-1, keepdims=True)
    return jnp.log(jnp.sum(jnp.exp(shifted), axis=-1)) - picked(shifted, y)


def log_of_softmax(x: Any, y: Any) -> Any:
    return -jnp.log(picked(jax.nn.softmax(x), y))


def with_z_loss(x: Any, y: Any, z: float = 1e-3) -> Any:
    lse = jax.nn.logsumexp(x, axis=-1)
    return lse - picked(x, y) + z * lse**2


def weighted_soft_targets(x: Any, y: Any, alpha: float = 0.1) -> Any:
    """As in flax's examples and T5X: confidence for the label, the rest spread over the other columns."""
    low = alpha / (V - 1)
    targets = jnp.where(y[..., None] == jnp.arange(V), 1 - alpha, low)
    constant = -((1 - alpha) * np.log(1 - alpha) + (V - 1) * low * np.log(low + 1e-20))
    return -jnp.sum(targets * jax.nn.log_softmax(x), axis=-1) - constant


def nll_and_smooth(x: Any, y: Any, alpha: float = 0.1) -> Any:
    log_probs = jax.nn.log_softmax(x)
    return (1 - alpha) * -picked(log_probs, y) - alpha * log_probs.mean(-1)


@jax.custom_vjp
def z_loss_rule(x: Any, targets: Any) -> Any:
    return _z_forward(x, targets)[0]


def _z_forward(x: Any, targets: Any, z: float = 1e-3) -> Any:
    shifted = x - x.max(-1, keepdims=True)
    exp = jnp.exp(shifted)
    total = exp.sum(-1, keepdims=True)
    log_softmax = shifted - jnp.log(total)
    lse = jnp.squeeze(jnp.log(total) + x.max(-1, keepdims=True), -1)
    return -(targets * log_softmax).sum(-1) + z * lse**2, (targets, exp, total, lse)


def _z_backward(kept: Any, g: Any, z: float = 1e-3) -> Any:
    targets, exp, total, lse = kept
    dx = jnp.expand_dims(1 + 2 * z * lse, -1) * exp / total - targets
    return jnp.expand_dims(g, -1) * dx, None


z_loss_rule.defvjp(_z_forward, _z_backward)


def masked_mean(loss: Any, w: Any) -> Any:
    return (loss * w).sum() / w.sum()


def ignored(x: Any, y: Any) -> Any:
    """Hugging Face's convention: a label of -100 does not count."""
    keep = y != -100
    loss = jnp.where(keep, integer(x, jnp.where(keep, y, 0)), 0.0)
    return loss.sum() / keep.sum()


def categorical_log_prob(x: Any, y: Any) -> Any:
    """As numpyro writes it."""
    log_pmf = x - jax.nn.logsumexp(x, axis=-1, keepdims=True)
    valid = (y >= 0) & (y < V)
    return jnp.where(valid, picked(log_pmf, y), -jnp.inf).sum()


def distrax_log_prob(x: Any, y: Any) -> Any:
    logits = jax.nn.log_softmax(x)
    hot = jax.nn.one_hot(y, V)
    return jnp.sum(jnp.where(hot == 0, 0.0, logits * hot), axis=-1).sum()


def keras_probabilities(x: Any, y: Any) -> Any:
    p = jnp.clip(jax.nn.softmax(x), 1e-7, 1 - 1e-7)
    return -jnp.sum(jax.nn.one_hot(y, V) * jnp.log(p), axis=-1).mean()


def with_accuracy(x: Any, y: Any) -> Any:
    return integer(x, y).mean() + 0.0 * (jnp.argmax(x, -1) == y).mean()


def z_loss_apart(x: Any, y: Any) -> Any:
    lse = jax.nn.logsumexp(x, axis=-1)
    return (lse - picked(x, y)).mean() + 1e-3 * (lse**2).mean()


def two_weights(x: Any, y: Any, w: Any) -> Any:
    lse = jax.nn.logsumexp(x, axis=-1)
    return ((lse - picked(x, y)) * w).sum() + 1e-3 * lse.sum()


def focal(x: Any, y: Any) -> Any:
    loss = integer(x, y)
    return ((1 - jnp.exp(-loss)) ** 2 * loss).mean()


def squared(x: Any, y: Any) -> Any:
    return (integer(x, y) ** 2).sum()


LOSSES = [
    Program("integer labels", lambda x, y: integer(x, y).mean(), (X, L), {"outside": "fill", "infinity": "inf"}),
    Program("one row", integer, (X[0, 0], L[0, 0])),
    Program("one-hot", lambda x, y: one_hot(x, y).mean(), (X, L), {"outside": "zero", "infinity": "nan"}),
    Program("one-hot by where", lambda x, y: by_where(x, y).mean(), (X, L), {"outside": "zero"}),
    Program("smoothed", lambda x, y: smoothed(x, y).mean(), (X, L), {"smoothing": 0.1}),
    Program("nll", lambda x, y: negative_log_likelihood(x, y).mean(), (X, L), {"outside": "fill"}),
    Program("by index", lambda x, y: by_index(x, y).mean(), (ROW, LABEL)),
    Program("by hand", lambda x, y: by_hand(x, y).mean(), (X, L), {"infinity": "nan"}),
    Program("logarithm of a softmax", lambda x, y: log_of_softmax(x, y).mean(), (X, L)),
    Program("z-loss", lambda x, y: with_z_loss(x, y).mean(), (X, L), {"z_loss": 1e-3}),
    Program("z-loss rule", lambda x, y: z_loss_rule(x, jax.nn.one_hot(y, V)).mean(), (X, L), {"z_loss": 1e-3}),
    Program("soft targets", lambda x, y: weighted_soft_targets(x, y).mean(), (X, L), {"smoothing": 0.11}),
    Program("two terms", lambda x, y: nll_and_smooth(x, y).mean(), (X, L), {"smoothing": 0.1}),
    Program("masked mean", lambda x, y, w: masked_mean(integer(x, y), w), (X, L, W)),
    Program("ignored", ignored, (X, IGNORED)),
    Program("shifted", lambda x, y: integer(x[:, :-1], y[:, 1:]).mean(), (X, L)),
    Program("flattened", lambda x, y: integer(x.reshape(-1, V), y.reshape(-1)).mean(), (X, L)),
    Program("log_prob", categorical_log_prob, (X, L)),
    Program("distrax", distrax_log_prob, (X, L), {"outside": "zero"}),
    Program("vmap by index", lambda x, y: jax.vmap(by_index)(x, y).mean(), (X, L)),
    Program("bfloat16 logits", lambda x, y: integer(x.astype(jnp.float32), y).mean(), (HALF, L)),
    Program("bfloat16", lambda x, y: one_hot(x, y).astype(jnp.float32).mean(), (HALF, L)),
    Program("unsigned labels", lambda x, y: integer(x, y).mean(), (X, L.astype(jnp.uint8))),
    Program("accuracy", with_accuracy, (X, L)),
    Program("two weights", two_weights, (X, L, W)),
    Program("focal", focal, (X, L)),
    Program("sum over all", lambda x, y: -jnp.sum(jax.nn.one_hot(y, V) * jax.nn.log_softmax(x)) / B, (X, L)),
    Program("lse minus one-hot", lambda x, y: lse_minus_one_hot(x, y).mean(), (X, L), {"outside": "drop"}),
    Program("einsum", lambda x, y: by_einsum(x, y).mean(), (X, L)),
    Program("clip mode", lambda x, y: clipped_labels(x, y).mean(), (X, L)),
    Program("identity", lambda x, y: -(jnp.eye(V)[y] * jax.nn.log_softmax(x)).sum(-1).mean(), (X, L)),
    Program("labels changed", lambda x, y: integer(x, jnp.maximum(y, 3)).sum(), (X, L)),
    Program("safe", lambda x, y: optax.losses.safe_softmax_cross_entropy(x, jax.nn.one_hot(y, V)).mean(), (X, L)),
]

NEAR_MISSES = [
    Program(
        "another dimension", lambda x, y: integer(x, y, 1).mean(), (X.swapaxes(1, 2), L), reason="over dimension 1 of 3"
    ),
    Program("weights inside", lambda x, y, w: weights_inside(x, y, w).mean(), (X, L, W), reason="each row is weighed"),
    Program("clipped probabilities", keras_probabilities, (X, L), reason="the probabilities are clipped before"),
    Program(
        "targets",
        lambda x, t: optax.softmax_cross_entropy(x, t).mean(),
        (X, jax.nn.softmax(X + 1)),
        reason="are a matrix of",
    ),
    Program("no maximum", no_maximum, (X, L), reason="without subtracting the row maximum"),
    Program("log-softmax kept", log_softmax_kept, (X, L), reason="used by something that is no part of the loss"),
]

OTHERS = [
    Program("another row", lambda x, y: (jax.nn.logsumexp(x, -1) - picked(x[::-1], y)).sum(), (X, L)),
    Program("half of the logits", lambda x, y: (jax.nn.logsumexp(x, -1) - 0.5 * picked(x, y)).sum(), (X, L)),
    Program("log-sum-exp alone", lambda x, y: jax.nn.logsumexp(x, -1).sum(), (X, L)),
    Program("other logits", lambda x, y: (jax.nn.logsumexp(2 * x, -1) - picked(x, y)).sum(), (X, L)),
    Program("squared sums", lambda x, y: (2 * jax.nn.logsumexp(x, -1) - picked(x, y)).sum(), (X, L)),
]
