"""The CPU kernels in training programs, certified: as near to float64 as the program itself, on adversarial inputs too.

Sums that cancel are what these programs are about: the gradient of a logit is 0 where one key has all the weight.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import pytest
from attention_programs import array, attend, causal, mask_of, output, scores

import zenith_mlir as zenith
from zenith_mlir.certify import certify_composites

pytestmark = pytest.mark.once

# Several panels of queries and blocks of keys: a causal mask leaves blocks to skip.
B, T, S, H, G, D, E = 2, 70, 150, 2, 2, 8, 6


def operands(dtype: Any = jnp.float32, heads: int = H) -> list[jax.Array]:
    return [
        array(B, T, heads, D, seed=1, dtype=dtype),
        array(B, S, H, D, seed=2, dtype=dtype),
        array(B, S, H, E, seed=3, dtype=dtype),
    ]


def window(x: Any) -> Any:
    distance = jnp.arange(T)[:, None] - jnp.arange(S)[None, :]
    return jnp.where((distance >= 0) & (distance < 30), x, -1e9)


def grouped(q: Any, k: Any, v: Any) -> Any:
    q = q.reshape(B, T, H, G, D)
    p = jax.nn.softmax(causal(jnp.einsum("bthgd,bshd->bhgts", q, k)), axis=-1)
    return jnp.einsum("bhgts,bshe->bthge", p, v).reshape(B, T, H * G, E)


def dropout(q: Any, k: Any, v: Any, keep: Any) -> Any:
    p = jax.nn.softmax(causal(scores(q, k)), axis=-1)
    return output(jnp.where(keep, p / 0.9, 0.0), v)


def bfloat16_around_a_float32_softmax(q: Any, k: Any, v: Any) -> Any:
    p = jax.nn.softmax(causal(scores(q, k).astype(jnp.float32) * 0.3), axis=-1)
    return output(p.astype(jnp.bfloat16), v)


_keys = mask_of(B, 1, 1, S)

PROGRAMS: dict[str, tuple[Callable[..., Any], Sequence[Any]]] = {
    "no mask": (lambda q, k, v: attend(scores(q, k) * 0.3, v), operands()),
    "causal": (lambda q, k, v: attend(causal(scores(q, k) * 0.3), v), operands()),
    "causal, -inf": (lambda q, k, v: attend(causal(scores(q, k), fill=-jnp.inf), v), operands()),
    "causal and scaled by an operand": (
        lambda q, k, v, m: attend(causal(scores(q, k) * m), v),
        [*operands(), array(1, H, T, S)],
    ),
    "window": (lambda q, k, v: attend(window(scores(q, k)), v), operands()),
    "mask": (lambda q, k, v, m: attend(jnp.where(m, scores(q, k), -1e9), v), [*operands(), _keys]),
    "mask, -inf": (lambda q, k, v, m: attend(jnp.where(m, scores(q, k), -jnp.inf), v), [*operands(), _keys]),
    "soft cap": (lambda q, k, v: attend(causal(5.0 * jnp.tanh(scores(q, k) / 5.0)), v), operands()),
    "bias": (lambda q, k, v, b: attend(causal(scores(q, k) + b), v), [*operands(), array(1, H, T, S)]),
    "grouped": (grouped, operands(heads=H * G)),
    "dropout": (dropout, [*operands(), mask_of(B, H, T, S)]),
    "bfloat16": (lambda q, k, v: attend(causal(scores(q, k)), v), operands(jnp.bfloat16)),
    "bfloat16 around a float32 softmax": (bfloat16_around_a_float32_softmax, operands(jnp.bfloat16)),
}


@pytest.mark.parametrize("name", PROGRAMS)
def test_gradients_are_sound(name: str) -> None:
    function, arguments = PROGRAMS[name]

    def train(cotangent: Any, *arguments: Any) -> Any:
        floats = [i for i, x in enumerate(arguments) if jnp.issubdtype(x.dtype, jnp.floating)]

        def forward(*differentiated: Any) -> Any:
            given = dict(zip(floats, differentiated, strict=True))
            return function(*(given.get(i, x) for i, x in enumerate(arguments)))

        result, pullback = jax.vjp(forward, *(arguments[i] for i in floats))
        return result, pullback(cotangent)

    result = jax.eval_shape(function, *arguments)
    module = zenith.trace(train, array(*result.shape, seed=9, dtype=result.dtype), *arguments)
    raised = module.run("prepare,raise-attention", target="cpu")
    (certificate,) = certify_composites(raised, target=zenith.Target.parse("cpu"))
    assert certificate.op == "zenith.attention_vjp"
    assert certificate.note == "cpu-flash, cpu-flash-vjp"
    assert certificate.sound, certificate.summary
