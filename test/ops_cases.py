"""Calls of every zenith.ops function, and the same in plain JAX."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import zenith_mlir as zenith

ops = zenith.ops


def array(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng([*shape, seed]).normal(size=shape)


@contextlib.contextmanager
def little_optimised() -> Iterator[None]:
    """Programs compile in half the time."""
    name = "jax_disable_most_optimizations"
    before = jax.config.read(name)
    jax.config.update(name, True)
    yield
    jax.config.update(name, before)


def layer_norm(x: Any, w: Any, b: Any) -> Any:
    return (x - x.mean(-1, keepdims=True)) / jnp.sqrt(x.var(-1, keepdims=True) + 1e-5) * w + b


def rms_norm(x: Any, w: Any, residual: Any) -> Any:
    s = x + residual
    return s / jnp.sqrt(jnp.square(s).mean(-1, keepdims=True) + 1e-6) * (1 + w), s


def swiglu(gate: Any, up: Any, b: Any, c: Any) -> Any:
    return jax.nn.silu(gate + b) * (up + c)


def cross_entropy(x: Any, labels: Any) -> Any:
    lse = jax.nn.logsumexp(x, axis=-1)
    target = 0.9 * jax.nn.one_hot(labels, x.shape[-1], dtype=x.dtype) + 0.1 / x.shape[-1]
    return -(target * jax.nn.log_softmax(x)).sum(-1) + 0.01 * lse**2


def rotary(x: Any, cos: Any, sin: Any) -> Any:
    a, b = jnp.split(x, 2, axis=-1)
    return jnp.concatenate([a * cos[:, None] - b * sin[:, None], b * cos[:, None] + a * sin[:, None]], axis=-1)


def attention(q: Any, k: Any, v: Any, bias: Any, mask: Any) -> Any:
    k, v = jnp.repeat(k, 2, axis=2), jnp.repeat(v, 2, axis=2)
    x = jnp.einsum("btnh,bsnh->bnts", q, k) / 2**0.5 + bias
    x = jnp.where(mask & np.tril(np.ones(x.shape[-2:], bool)), x, -jnp.inf)
    return jnp.einsum("bnts,bsnh->btnh", jax.nn.softmax(x), v)


@dataclasses.dataclass(frozen=True)
class Case:
    """A call of an op, and the same in plain JAX. Operands are float64 arrays, or others, which do not move."""

    op: str
    call: Callable[..., Any]
    plain: Callable[..., Any]
    operands: tuple[np.ndarray, ...]
    variant: str = ""
    gradient: str = "vjp"  # what the backward is made of

    @property
    def moving(self) -> tuple[int, ...]:
        return tuple(i for i, x in enumerate(self.operands) if x.dtype == np.float64)

    def moved(self) -> tuple[Any, ...]:
        """The operands that move."""
        return tuple(jnp.asarray(self.operands[i]) for i in self.moving)

    def of_moving(self, function: Callable[..., Any], operands: Any = None) -> Callable[..., Any]:
        """`function` of the operands that move."""
        given = self.operands if operands is None else operands

        def of(*moved: Any) -> Any:
            at = dict(zip(self.moving, moved, strict=True))
            return function(*(at.get(i, x) for i, x in enumerate(given)))

        return of

    def __str__(self) -> str:
        return f"{self.op}-{self.variant}" if self.variant else self.op


X, W, B, R = array(3, 4), array(4, seed=1), array(4, seed=2), array(3, 4, seed=3)
LABELS = np.array([1, 0, 3])
Q, K, V = array(2, 3, 4, 2), array(2, 5, 2, 2, seed=1), array(2, 5, 2, 2, seed=2)
MASK = np.tril(np.ones((3, 5), bool), 2)[None, None]
ANGLES = array(3, 2)

CASES = [
    Case("layer_norm", ops.layer_norm, layer_norm, (X, W, B)),
    Case(
        "rms_norm",
        lambda x, w, r: ops.rms_norm(x, w, residual=r, offset=1.0),
        rms_norm,
        (X, W, R),
        "residual",
    ),
    Case("gelu", ops.gelu, jax.nn.gelu, (X,)),
    Case("gelu", lambda x, b: ops.gelu(x, False, bias=b), lambda x, b: jax.nn.gelu(x + b, False), (X, B), "bias"),
    Case("silu", ops.silu, jax.nn.silu, (X,)),
    Case("swiglu", lambda g, u, b, c: ops.swiglu(g, u, bias=(b, c)), swiglu, (X, R, W, B), "bias"),
    Case(
        "swiglu",
        lambda x: ops.swiglu(x, activation="sigmoid", halves="gate_last"),
        jax.nn.glu,
        (X,),
        "glu",
    ),
    Case("softmax", ops.softmax, jax.nn.softmax, (X,)),
    Case(
        "log_softmax",
        lambda x: ops.log_softmax(x, 0),
        lambda x: jax.nn.log_softmax(x, 0),
        (X,),
        "columns",
    ),
    Case(
        "cross_entropy",
        lambda x, labels: ops.cross_entropy(x, labels, label_smoothing=0.1, z_loss=0.01),
        cross_entropy,
        (X, LABELS),
    ),
    Case(
        "rotary",
        lambda x, cos, sin: ops.rotary(x, cos[:, None], sin[:, None]),
        rotary,
        (array(2, 3, 2, 4), np.cos(ANGLES), np.sin(ANGLES)),
    ),
    Case("matmul", ops.matmul, jnp.matmul, (array(2, 3, 4), array(4, 2)), gradient="matmul"),
    Case(
        "matmul",
        lambda x, y, b, r: ops.matmul(x, y, bias=b, activation="silu", residual=r),
        lambda x, y, b, r: jax.nn.silu(x @ y + b) + r,
        (X, array(4, 2), array(2), array(3, 2)),
        "epilogue",
        gradient="matmul",
    ),
    Case(
        "attention",
        lambda q, k, v, bias, mask: ops.attention(q, k, v, bias, mask, is_causal=True),
        attention,
        (Q, K, V, array(1, 4, 3, 5), MASK),
    ),
]
