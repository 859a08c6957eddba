"""Softmax and log-softmax as people write them: the programs that the raising tests run on."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from cross_entropy_programs import Program, V, X, array

G = array(*X.shape, seed=9)
HALF = X.astype(jnp.bfloat16)


def quotient(x: Any) -> Any:
    e = jnp.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def unshifted(x: Any) -> Any:
    return jnp.exp(x) / jnp.exp(x).sum(-1, keepdims=True)


def normalised(x: Any) -> Any:
    return x - jax.nn.logsumexp(x, -1, keepdims=True)


def entropy(x: Any) -> Any:
    log_p = jax.nn.log_softmax(x)
    return -(jnp.exp(log_p) * log_p).sum(-1)


def narrow(x: Any, g: Any) -> Any:
    return (jax.nn.softmax(x.astype(jnp.float32)).astype(jnp.bfloat16) * g).astype(jnp.float32).sum()


def divergence(x: Any, g: Any) -> Any:
    return (jax.nn.softmax(g) * jax.nn.log_softmax(x)).sum(-1).mean()


SOFTMAXES = [
    Program("softmax", lambda x, g: (jax.nn.softmax(x) * g).sum(), (X, G)),
    Program("quotient", lambda x, g: (quotient(x) * g).sum(), (X, G)),
    Program("log-softmax", lambda x, g: (jax.nn.log_softmax(x) * g).sum(), (X, G)),
    Program("scaled", lambda x, g: (jax.nn.softmax(0.5 * x) * g).sum(), (X, G), {"scale": 0.5}),
    Program("temperature", lambda x, g: (jax.nn.log_softmax(x / 0.5) * g).sum(), (X, G), {"scale": 2.0}),
    Program("bfloat16", lambda x, g: (jax.nn.softmax(x) * g).astype(jnp.float32).sum(), (HALF, HALF)),
    Program("float32 inside", narrow, (HALF, HALF)),
    Program("flattened", lambda x, g: (jax.nn.softmax(x.reshape(-1, V)) * g.reshape(-1, V)).sum(), (X, G)),
    Program("one row", lambda x, g: (jax.nn.softmax(x) * g).sum(), (X[0, 0], G[0, 0])),
    Program("exp of log-softmax", lambda x, g: (jnp.exp(jax.nn.log_softmax(x)) * g).sum(), (X, G)),
    Program("mapped", lambda x, g: (jax.vmap(jax.nn.log_softmax)(x) * g).sum(), (X, G)),
    Program("router", lambda x, g: (jax.lax.top_k(jax.nn.softmax(x), 2)[0]).sum(), (X, G)),
    Program("two", divergence, (X, G)),
]

NEAR_MISSES = [
    Program("another dimension", lambda x, g: (jax.nn.softmax(x, axis=1) * g).sum(), (X, G), reason="dimension 1 of 3"),
    Program("no maximum", lambda x, g: (unshifted(x) * g).sum(), (X, G), reason="without subtracting the row maximum"),
    Program("guarded", lambda x, g: (normalised(x) * g).sum(), (X, G), reason="guards against an infinite maximum"),
    Program("entropy", lambda x, g: entropy(x).sum(), (X, G), reason="is used by something else, too"),
]
