"""Backwards written by hand: what is not the gradient of the attention is refused with one remark, a constant multiple
of it is a factor, and whatever is raised computes what the program does.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from attention_programs import array

import zenith_mlir as zenith
from zenith_mlir.certify import certify_pair
from zenith_mlir.dialects.attention_vjp import NAME, AttentionVjpSpec
from zenith_mlir.dialects.attributes import from_attribute
from zenith_mlir.ir.composites import composite_attributes, composite_name, zenith_composites

BATCH, SEQUENCE, HEADS, DEPTH, SCALE = 2, 12, 2, 4, 0.35
LOGITS = (BATCH, HEADS, SEQUENCE, SEQUENCE)
TRIANGLE = np.tril(np.ones((SEQUENCE, SEQUENCE), bool))

Array = Any
einsum = jnp.einsum


def softmax_gradient(p: Array, dp: Array, *_: Array) -> Array:
    return p * (dp - (p * dp).sum(-1, keepdims=True))


def centred(delta: Callable[[Array, Array], Array]) -> Callable[..., Array]:
    return lambda p, dp: p * (dp - delta(p, dp))


def logits(q: Array, k: Array, *_: Array) -> Array:
    return einsum("bthd,bshd->bhts", q, k) * SCALE


def same(x: Array, *_: Array) -> Array:
    return x


@dataclass(frozen=True)
class Backward:
    """A forward and a backward of an attention; the fields are what a programmer may get wrong."""

    mask: Callable[..., Array] = same
    after: Callable[..., Array] = same
    dp: Callable[..., Array] = lambda do, v, *_: einsum("bthe,bshe->bhts", do, v)
    after_back: Callable[..., Array] = same
    ds: Callable[..., Array] = softmax_gradient
    scale: float = SCALE
    dq: Callable[..., Array] = lambda ds, k, *_: einsum("bhts,bshd->bthd", ds, k)
    dk: Callable[..., Array] = lambda ds, q, *_: einsum("bhts,bthd->bshd", ds, q)
    dv: Callable[..., Array] = lambda w, do, *_: einsum("bhts,bthe->bshe", w, do)

    def __call__(self, q: Array, k: Array, v: Array, do: Array, *rest: Array) -> Sequence[Array]:
        p = jax.nn.softmax(self.mask(logits(q, k), *rest), axis=-1)
        weights = self.after(p, *rest)
        dp = self.after_back(self.dp(do, v, *rest), *rest)
        ds = self.ds(p, dp, *rest) * self.scale
        out = einsum("bhts,bshe->bthe", weights, v)
        return out, self.dq(ds, k, *rest), self.dk(ds, q, *rest), self.dv(weights, do, *rest)


def selected(x: Array, mask: Array, *_: Array) -> Array:
    return jnp.where(mask, x, -1e9)


def masked(p: Array, dp: Array, mask: Array, *_: Array) -> Array:
    return jnp.where(mask, softmax_gradient(p, dp), 0)


def dropped(x: Array, kept: Array, *_: Array) -> Array:
    return jnp.where(kept, x / 0.8, 0)


def causal(x: Array) -> Array:
    return jnp.where(TRIANGLE, x, -1e30)


def capped(slope: Callable[[Array], Array]) -> Callable[..., Sequence[Array]]:
    """Logits 3 tanh(x / 3)."""

    def train(q: Array, k: Array, v: Array, do: Array) -> Sequence[Array]:
        y = jnp.tanh(logits(q, k) / 3)
        p = jax.nn.softmax(3 * y, axis=-1)
        ds = softmax_gradient(p, einsum("bthe,bshe->bhts", do, v)) * slope(y) * SCALE
        out = einsum("bhts,bshe->bthe", p, v)
        dq, dk = einsum("bhts,bshd->bthd", ds, k), einsum("bhts,bthd->bshd", ds, q)
        return out, dq, dk, einsum("bhts,bthe->bshe", p, do)

    return train


def biased(over: tuple[int, ...], factor: float = 1.0) -> Callable[..., Sequence[Array]]:
    """With the gradient of a bias, summed `over` dimensions of the logits."""

    def train(q: Array, k: Array, v: Array, do: Array, bias: Array) -> Sequence[Array]:
        p = jax.nn.softmax(logits(q, k) + bias, axis=-1)
        dx = softmax_gradient(p, einsum("bthe,bshe->bhts", do, v))
        ds, out = dx * SCALE, einsum("bhts,bshe->bthe", p, v)
        dq, dk = einsum("bhts,bshd->bthd", ds, k), einsum("bhts,bthd->bshd", ds, q)
        return out, dq, dk, einsum("bhts,bthe->bshe", p, do), dx.sum(over) * factor

    return train


def pulled_back(attention: Callable[..., Array], cotangent_is_result: bool = False) -> Callable[..., Sequence[Array]]:
    def train(q: Array, k: Array, v: Array, do: Array, *rest: Array) -> Sequence[Array]:
        out, pullback = jax.vjp(attention, q, k, v, *rest)
        return out, *pullback(out if cotangent_is_result else do)

    return train


def bias_twice(q: Array, k: Array, v: Array, bias: Array) -> Array:
    p = jax.nn.softmax(jnp.tanh(logits(q, k) + bias) * 2 + bias, axis=-1)
    return einsum("bhts,bshe->bthe", p, v)


def factor_before_and_after(q: Array, k: Array, v: Array, factor: Array) -> Array:
    p = jax.nn.softmax(logits(q, k) * factor, axis=-1)
    return einsum("bhts,bshe->bthe", p * factor, v)


def plain(q: Array, k: Array, v: Array) -> Array:
    return einsum("bhts,bshe->bthe", jax.nn.softmax(logits(q, k), axis=-1), v)


def padded_normaliser(forward: bool) -> Callable[..., Sequence[Array]]:
    """1e-3 is added to what the exponentials are divided by, in the backward or in both."""

    def train(q: Array, k: Array, v: Array, do: Array) -> Sequence[Array]:
        x = logits(q, k)
        e = jnp.exp(x - x.max(-1, keepdims=True))
        total = e.sum(-1, keepdims=True)
        padded = e / (total + 1e-3)
        p = padded if forward else e / total
        ds = softmax_gradient(padded, einsum("bthe,bshe->bhts", do, v)) * SCALE
        dq, dk = einsum("bhts,bshd->bthd", ds, k), einsum("bhts,bthd->bshd", ds, q)
        return einsum("bhts,bshe->bthe", p, v), dq, dk, einsum("bhts,bthe->bshe", p, do)

    return train


def grouped(gradients: Callable[..., Sequence[Array]]) -> Callable[..., Sequence[Array]]:
    """Three queries to a key, in a dimension of their own."""

    def train(q: Array, k: Array, v: Array, do: Array) -> Sequence[Array]:
        p = jax.nn.softmax(einsum("bthgd,bshd->bhgts", q, k) * SCALE, axis=-1)
        ds = softmax_gradient(p, einsum("bthge,bshe->bhgts", do, v)) * SCALE
        dq, dv = einsum("bhgts,bshd->bthgd", ds, k), einsum("bhgts,bthge->bshe", p, do)
        return einsum("bhgts,bshe->bthge", p, v), dq, dv, *gradients(p, ds, q)

    return train


def diagonal(q: Array, k: Array, v: Array, do: Array) -> Sequence[Array]:
    """As many queries as features: what runs over the former is taken for the latter."""
    p = jax.nn.softmax(q @ k.T, axis=-1)
    ds = softmax_gradient(p, do @ v.T)
    return p @ v, einsum("ts,st->t", ds, k), ds.T @ q, p.T @ do


def tensors() -> list[Array]:
    return [array(BATCH, SEQUENCE, HEADS, DEPTH, seed=i) for i in range(4)]


def grouped_tensors() -> list[Array]:
    wide = (BATCH, SEQUENCE, HEADS, 3, DEPTH)
    _, k, v, _ = tensors()
    return [array(*wide, seed=5), k, v, array(*wide, seed=6)]


def other() -> Array:
    return array(BATCH, SEQUENCE, HEADS, DEPTH, seed=7)


def mask(seed: int = 0, rows: bool = True) -> Array:
    """One row sees nothing."""
    found = np.random.default_rng(seed).random(LOGITS) < 0.7
    found[0, 0, 3] = not rows
    return found


@dataclass(frozen=True)
class Case:
    train: Callable[..., Sequence[Array]]
    extra: list[Array] = field(default_factory=list)
    arguments: Callable[[], list[Array]] = tensors

    @property
    def inputs(self) -> list[Array]:
        return [np.asarray(x) for x in (*self.arguments(), *self.extra)]


def over_heads(do: Array, v: Array) -> Array:
    return jnp.broadcast_to(einsum("bthe,bshe->bts", do, v)[:, None], LOGITS)


bias = array(HEADS, SEQUENCE, SEQUENCE, seed=8)

WRONG = {
    "delta forgotten": Case(Backward(ds=lambda p, dp: p * dp)),
    "delta of another row": Case(
        Backward(ds=centred(lambda p, dp: jnp.roll((p * dp).sum(-1, keepdims=True), 1, axis=2)))
    ),
    "delta of the column": Case(Backward(ds=centred(lambda p, dp: (p * dp).sum(-1)[:, :, None, :]))),
    "delta over rows": Case(Backward(ds=centred(lambda p, dp: (p * dp).sum(-2, keepdims=True)))),
    "delta over heads": Case(Backward(ds=centred(lambda p, dp: (p * dp).sum((1, 3), keepdims=True)))),
    "delta a mean": Case(Backward(ds=centred(lambda p, dp: (p * dp).mean(-1, keepdims=True)))),
    "delta twice": Case(Backward(ds=centred(lambda p, dp: 2 * (p * dp).sum(-1, keepdims=True)))),
    "delta of p": Case(Backward(ds=centred(lambda p, dp: p.sum(-1, keepdims=True)))),
    "delta of dp": Case(Backward(ds=centred(lambda p, dp: dp.sum(-1, keepdims=True)))),
    "p squared": Case(Backward(ds=lambda p, dp: p * softmax_gradient(p, dp))),
    "dq from another tensor": Case(Backward(dq=lambda ds, k, x: einsum("bhts,bshd->bthd", ds, x)), [other()]),
    "dq from other heads": Case(Backward(dq=lambda ds, k: einsum("bhts,bshd->bthd", ds, k[:, :, ::-1]))),
    "dk from other heads": Case(Backward(dk=lambda ds, q: einsum("bhts,bthd->bshd", ds, q[:, :, ::-1]))),
    "dk with batch for heads": Case(Backward(dk=lambda ds, q: einsum("bhts,htbd->bshd", ds, q))),
    "dk from all heads": Case(Backward(dk=lambda ds, q: einsum("bhts,btkd->bhskd", ds, q))),
    "dv from all heads": Case(Backward(dv=lambda w, do: einsum("bhts,btke->bhske", w, do))),
    "dk of the transpose": Case(Backward(dk=lambda ds, q: einsum("bhst,bthd->bshd", ds, q))),
    "dq of the transpose": Case(Backward(dq=lambda ds, k: einsum("bhst,bshd->bthd", ds, k))),
    "dp over heads": Case(Backward(dp=over_heads)),
    "dp of moved values": Case(Backward(dp=lambda do, v: einsum("bthe,bshe->bhts", do, jnp.roll(v, 1, 1)))),
    "dp of another layer's values": Case(Backward(dp=lambda do, v, x: einsum("bthe,bshe->bhts", do, x)), [other()]),
    "dp of another cotangent": Case(Backward(dp=lambda do, v, x: einsum("bthe,bshe->bhts", x, v)), [other()]),
    "mask forgotten": Case(Backward(selected), [mask()]),
    "mask on dp": Case(
        Backward(selected, ds=lambda p, dp, m: softmax_gradient(p, jnp.where(m, dp, 0))),
        [mask()],
    ),
    "mask negated": Case(Backward(selected, ds=lambda p, dp, m: masked(p, dp, ~m)), [mask()]),
    "mask and its opposite": Case(
        Backward(selected, ds=lambda p, dp, m: masked(p, dp, m) * (1.0 - jnp.float32(m))), [mask()]
    ),
    "another mask": Case(Backward(selected, ds=lambda p, dp, m, n: masked(p, dp, n)), [mask(), mask(1)]),
    "mask added, and selected by": Case(Backward(lambda x, m: x + jnp.where(m, 0, -1e9), ds=masked), [mask()]),
    "causal mask forgotten": Case(Backward(causal)),
    "causal mask off by one": Case(
        Backward(causal, ds=lambda p, dp: masked(p, dp, np.tril(np.ones_like(TRIANGLE), 1))),
    ),
    "dropout forward only": Case(Backward(after=dropped), [mask(rows=False)]),
    "dropout backward only": Case(Backward(after_back=dropped), [mask(rows=False)]),
    "another dropout": Case(
        Backward(after=dropped, after_back=lambda x, m, n: dropped(x, n)), [mask(rows=False), mask(1, rows=False)]
    ),
    "soft cap by 1 - y": Case(capped(lambda y: 1 - y)),
    "soft cap by 1 + y²": Case(capped(lambda y: 1 + y * y)),
    "bias over columns alone": Case(biased((3,)), [bias]),
    "bias in two steps": Case(pulled_back(bias_twice), [bias]),
    "factor in two steps": Case(pulled_back(factor_before_and_after), [bias]),
    "result as cotangent": Case(pulled_back(plain, cotangent_is_result=True)),
    "normaliser padded": Case(padded_normaliser(forward=True)),
    "normaliser padded in the backward": Case(padded_normaliser(forward=False)),
    "first group only": Case(
        grouped(lambda p, ds, q: [einsum("bhts,bthd->bshd", ds[:, :, 0], q[:, :, :, 0])]), [], grouped_tensors
    ),
    "queries summed over groups": Case(
        grouped(lambda p, ds, q: [einsum("bhgts,bthd->bshd", ds, q.sum(3))]), [], grouped_tensors
    ),
    "gradients summed over groups": Case(
        grouped(lambda p, ds, q: [einsum("bhts,bthgd->bshd", ds.sum(2), q)]), [], grouped_tensors
    ),
    "queries taken for features": Case(diagonal, [], lambda: [array(8, 8, seed=i) for i in range(4)]),
}

# name -> the case and the factors of the gradients of q and k, in any order
RIGHT: dict[str, tuple[Case, list[float]]] = {
    "by hand": (Case(Backward()), [1, 1]),
    "masked": (Case(Backward(selected, ds=masked), [mask()]), [1, 1]),
    "masked twice": (
        Case(Backward(selected, ds=lambda p, dp, m: jnp.where(m, masked(p, dp, m), 0)), [mask()]),
        [1, 1],
    ),
    "mask added": (Case(Backward(lambda x, m: x + jnp.where(m, 0, -1e9)), [mask()]), [1, 1]),
    "causal": (Case(Backward(causal, ds=lambda p, dp: masked(p, dp, TRIANGLE))), [1, 1]),
    "scale forgotten": (Case(Backward(scale=1.0)), [1 / SCALE, 1 / SCALE]),
    "scale twice": (Case(Backward(scale=SCALE**2)), [SCALE, SCALE]),
    "ascent": (Case(Backward(scale=-SCALE)), [-1, -1]),
    "dropout": (Case(Backward(after=dropped, after_back=dropped), [mask(rows=False)]), [1, 1]),
    "another scale after": (Case(Backward(after=lambda p: p * 2, after_back=lambda p: p * 3)), [1.5, 1.5]),
    "scale after forgotten": (Case(Backward(after=lambda p: p * 2)), [0.5, 0.5]),
    "soft cap": (Case(capped(lambda y: 1 - y * y)), [1, 1]),
    "bias": (Case(biased((0,)), [bias]), [1, 1]),
    "bias scaled": (Case(biased((0,), 2.0), [bias]), [1, 1]),
    "bias over heads": (Case(biased((1,)), [bias]), [1, 1]),
    "bias over rows": (Case(biased((0, 2)), [bias]), [1, 1]),
    "groups": (
        Case(grouped(lambda p, ds, q: [einsum("bhgts,bthgd->bshd", ds, q)]), [], grouped_tensors),
        [1, 1],
    ),
    "groups apart": (
        Case(grouped(lambda p, ds, q: [einsum("bhgts,bthgd->bgshd", ds, q)]), [], grouped_tensors),
        [1, 1],
    ),
    "queries as cotangent": (Case(lambda q, k, v, do: Backward()(q, k, v, q)), [1, 1]),
}


def raised(case: Case) -> zenith.Module:
    return zenith.trace(case.train, *case.inputs).run("prepare,raise-attention", target="cpu")


def counts(module: zenith.Module, kind: str) -> Counter[str]:
    return Counter(r.op for r in module.remarks if r.kind == kind)


@pytest.mark.parametrize("name", WRONG)
def test_what_is_no_gradient_is_refused_once(name: str) -> None:
    module = raised(WRONG[name])
    assert NAME not in counts(module, "passed")
    assert sum(counts(module, "missed").values()) == 1, [r.reason for r in module.remarks]


@pytest.mark.parametrize("name", RIGHT)
def test_multiples_are_factors(name: str) -> None:
    case, factors = RIGHT[name]
    module = raised(case)
    assert counts(module, "passed")[NAME] == 1, [r.reason for r in module.remarks]
    assert not counts(module, "missed")
    (vjp,) = (op for op in zenith_composites(module.operation) if composite_name(op) == NAME)
    spec = AttentionVjpSpec.from_attributes(from_attribute(composite_attributes(vjp)))
    found = [gradient.factor for gradient in spec.gradients if gradient.role in (0, 1)]
    np.testing.assert_allclose(found, factors, rtol=1e-5)


@pytest.mark.parametrize("name", RIGHT)
def test_kernels_compute_what_the_program_does(name: str) -> None:
    case, _ = RIGHT[name]
    original = zenith.trace(case.train, *case.inputs)
    rewritten = original.run("prepare,raise-attention,lower-kernels{min-seq=0}", target="cpu")
    assert "@zenith_attention_vjp" in rewritten.text(), [r.reason for r in rewritten.remarks]
    certificate = certify_pair(original, rewritten, inputs=[("its own", case.inputs)])
    assert certificate.sound, certificate.summary


def test_a_marked_operation_of_the_backward_stays() -> None:
    """What somebody said about an operation would be lost with it."""
    case = Case(Backward())
    text = zenith.trace(case.train, *case.inputs).run("prepare", target="cpu").text()
    head, _, tail = text.rpartition(" = stablehlo.subtract")
    line, newline, rest = tail.partition(" : tensor")
    mark = ' {mhlo.frontend_attributes = {_scope = "mine"}}'
    module = zenith.Module.parse(f"{head} = stablehlo.subtract{line}{mark}{newline}{rest}")
    found = module.run("raise-attention", target="cpu")
    assert NAME not in counts(found, "passed")
    assert counts(found, "missed") == {NAME: 1}
