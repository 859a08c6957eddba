"""Attention on CUDA through cuDNN, on machines without a GPU: what is called, what is refused, and the arithmetic
around the calls, with the calls themselves played by the formula.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import zenith_mlir as zenith
from zenith_mlir.dialects.attention import AttentionSpec, Step, reference
from zenith_mlir.dialects.attention_vjp import AttentionVjpSpec, Gradient
from zenith_mlir.dialects.attention_vjp import reference as vjp_reference
from zenith_mlir.dialects.implementation import Implementation, Request, TensorSpec
from zenith_mlir.dialects.layout import Layout
from zenith_mlir.ir import cudnn
from zenith_mlir.kernels.gpu import cudnn_attention, cudnn_attention_vjp
from zenith_mlir.target import Target

H100 = "cuda:sm_90,cudnn=91002"
LOWER = "prepare,raise-attention,lower-kernels"
B, T, H, D = 2, 64, 4, 64
BF16 = jnp.bfloat16
LAYOUT = Layout.parse
BIAS = jax.ShapeDtypeStruct((T, T), BF16)
MASK = jax.ShapeDtypeStruct((B, 1, 1, T), bool)


def qkv(t: int = T, s: int = T, kv_heads: int = H, d: int = D, dtype: Any = BF16) -> list[jax.ShapeDtypeStruct]:
    shapes = [(B, t, H, d), (B, s, kv_heads, d), (B, s, kv_heads, d)]
    return [jax.ShapeDtypeStruct(shape, dtype) for shape in shapes]


def scores(q: Any, k: Any) -> Any:
    return jnp.einsum("bthd,bshd->bhts", q, k) * q.shape[-1] ** -0.5


def attend(x: Any, v: Any) -> Any:
    return jnp.einsum("bhts,bshd->bthd", jax.nn.softmax(x, axis=-1), v)


def banded(x: Any, low: int | None, high: int | None, fill: float = -1e9) -> Any:
    offset = jnp.arange(x.shape[-1]) - jnp.arange(x.shape[-2])[:, None]
    inside = jnp.ones(offset.shape, bool)
    inside = inside if low is None else inside & (offset >= low)
    inside = inside if high is None else inside & (offset <= high)
    return jnp.where(inside, x, fill)


def plain(q: Any, k: Any, v: Any) -> Any:
    return attend(scores(q, k), v)


def causal(q: Any, k: Any, v: Any) -> Any:
    return attend(banded(scores(q, k), None, 0), v)


def window(q: Any, k: Any, v: Any) -> Any:
    return attend(banded(scores(q, k), -15, 0), v)


def heads_first(q: Any, k: Any, v: Any) -> Any:
    return jax.nn.softmax(q @ k.swapaxes(-1, -2), axis=-1) @ v


def grouped(q: Any, k: Any, v: Any) -> Any:
    groups = q.shape[2] // k.shape[2]
    q = q.reshape(*q.shape[:2], k.shape[2], groups, q.shape[-1])
    x = jnp.einsum("bthgd,bshd->bhgts", q, k) * 0.125
    return jnp.einsum("bhgts,bshd->bthgd", jax.nn.softmax(x, axis=-1), v)


def biased(q: Any, k: Any, v: Any, bias: Any) -> Any:
    return attend(scores(q, k) + bias, v)


def masked(q: Any, k: Any, v: Any, mask: Any) -> Any:
    return attend(jnp.where(mask, scores(q, k), -1e9), v)


def lowered(function: Callable[..., Any], *arguments: Any, target: str = H100) -> zenith.Module:
    return zenith.trace(function, *arguments).run(LOWER, target=target)


def calls(text: str) -> list[tuple[str, dict[str, Any]]]:
    """cuDNN's calls in a module: name, and what the backend is told."""
    found = re.findall(r'custom_call @__cudnn\$(\w+)\(.*?backend_config = "(.*?)"[,}]', text)
    return [(name, json.loads(config.replace(r"\22", '"'))["cudnn_fmha_backend_config"]) for name, config in found]


def only_call(module: zenith.Module) -> tuple[str, dict[str, Any]]:
    found = calls(module.text())
    assert len(found) == 1, reasons(module)
    assert "stablehlo.exponential" not in module.text()
    return found[0]


def reasons(module: zenith.Module) -> list[str]:
    return [r.reason for r in module.remarks if r.pass_name == "lower-kernels" and r.kind == "missed"]


# What is called.


@pytest.mark.parametrize(
    ("function", "arguments", "name", "facts"),
    [
        (plain, qkv(), "fmhaSoftmax", {"mask_type": "NO_MASK", "fmha_scale": 0.125}),
        (causal, qkv(), "fmhaSoftmax", {"mask_type": "CAUSAL", "sliding_window_length": 0}),
        (causal, qkv(t=96, s=64), "fmhaSoftmax", {"mask_type": "CAUSAL"}),
        (causal, qkv(dtype=jnp.float16), "fmhaSoftmax", {"mask_type": "CAUSAL"}),
        (window, qkv(), "fmhaSoftmax", {"mask_type": "CAUSAL", "sliding_window_length": 16}),
        (heads_first, [jax.ShapeDtypeStruct((B, H, T, D), BF16)] * 3, "fmhaSoftmax", {"fmha_scale": 1.0}),
        (grouped, qkv(kv_heads=2), "fmhaSoftmax", {"mask_type": "NO_MASK"}),
        (biased, [*qkv(), jax.ShapeDtypeStruct((H, T, T), BF16)], "fmhaScaleBiasSoftmax", {"mask_type": "NO_MASK"}),
        (masked, [*qkv(), jax.ShapeDtypeStruct((B, 1, 1, T), bool)], "fmhaScaleBiasSoftmax", {"mask_type": "NO_MASK"}),
    ],
    ids=["plain", "causal", "wide", "float16", "window", "heads first", "grouped", "bias", "mask"],
)
def test_programs_become_one_call(
    function: Callable[..., Any], arguments: Sequence[Any], name: str, facts: dict[str, Any]
) -> None:
    found, config = only_call(lowered(function, *arguments))
    assert (found, {fact: config[fact] for fact in facts}) == (name, facts)


def test_no_operand_is_transposed_before_the_call() -> None:
    """cuDNN reads both layouts. The one transpose of [batch, sequence, heads, depth] is of the result, whose layout in
    memory is already the transposed one.
    """
    for function, arguments, transposes in [
        (causal, qkv(), 1),
        (grouped, qkv(kv_heads=2), 1),
        (heads_first, [jax.ShapeDtypeStruct((B, H, T, D), BF16)] * 3, 1),
    ]:
        text = lowered(function, *arguments).text()
        before, _, after = text.partition("custom_call @__cudnn")
        assert "transpose" not in before
        assert after.count("stablehlo.transpose") <= transposes
    layout = only_call(lowered(heads_first, *[jax.ShapeDtypeStruct((B, H, T, D), BF16)] * 3))[1]
    assert layout["bmm1_dot_dimension_numbers"]["lhs_batch_dimensions"] == ["0", "1"]


def test_grouped_heads_are_not_repeated() -> None:
    text = lowered(grouped, *qkv(kv_heads=2)).text()
    operands = re.search(r"custom_call @__cudnn.* : \((.*?)\) ->", text)
    assert operands is not None
    assert operands[1].split(", ") == ["tensor<2x64x4x64xbf16>", *["tensor<2x64x2x64xbf16>"] * 2]


def test_a_causal_mask_beside_a_bias_stays_cudnns_own_and_a_window_joins_the_bias() -> None:
    for low in (None, -15):

        def function(q: Any, k: Any, v: Any, bias: Any, low: int | None = low) -> Any:
            return attend(banded(scores(q, k) + bias, low, 0), v)

        name, config = only_call(lowered(function, *qkv(), BIAS))
        assert name == "fmhaScaleBiasSoftmax"
        assert (config["mask_type"], config["sliding_window_length"]) == ("CAUSAL", 0)


def test_queries_at_the_end_of_the_keys_are_masked_by_a_bias() -> None:
    name, config = only_call(lowered(lambda q, k, v: attend(banded(scores(q, k), None, 64), v), *qkv(t=64, s=128)))
    assert (name, config["mask_type"]) == ("fmhaScaleBiasSoftmax", "NO_MASK")


@pytest.mark.skipif(jax.default_backend() != "cpu", reason="is about machines without a GPU")
def test_a_described_gpu_need_not_be_there() -> None:
    """The facts come from the target; JAX's own checks would say that there is no cuDNN."""
    with pytest.raises(RuntimeError, match="cuDNN is not detected"):
        jax.eval_shape(lambda q, k, v: jax.nn.dot_product_attention(q, k, v, implementation="cudnn"), *qkv())
    assert only_call(lowered(causal, *qkv()))[0] == "fmhaSoftmax"


# What is refused.


def mixed(q: Any, k: Any, v: Any) -> Any:
    x = jnp.einsum("bthd,bshd->bhts", q, k, preferred_element_type=jnp.float32)
    return jnp.einsum("bhts,bshd->bthd", jax.nn.softmax(x, axis=-1), v, preferred_element_type=jnp.float32)


def dropout(q: Any, k: Any, v: Any, keep: Any) -> Any:
    return jnp.einsum("bhts,bshd->bthd", jax.nn.softmax(scores(q, k), axis=-1) * keep, v)


def returned(q: Any, k: Any, v: Any) -> Any:
    p = jax.nn.softmax(scores(q, k), axis=-1)
    return jnp.einsum("bhts,bshd->bthd", p, v), p


def mask_and_bias(q: Any, k: Any, v: Any, mask: Any, bias: Any) -> Any:
    return attend(jnp.where(mask, scores(q, k), -1e9) + bias, v)


def two_biases(q: Any, k: Any, v: Any, bias: Any, other: Any) -> Any:
    return attend(scores(q, k) + bias + other, v)


def scaled_bias(q: Any, k: Any, v: Any, bias: Any) -> Any:
    return attend((jnp.einsum("bthd,bshd->bhts", q, k) + bias) * 0.3, v)


def two_fills(q: Any, k: Any, v: Any, mask: Any) -> Any:
    return attend(jnp.where(mask, banded(scores(q, k), None, 0, -1e8), -1e9), v)


def soft_capped(q: Any, k: Any, v: Any) -> Any:
    return attend(jnp.tanh(scores(q, k)), v)


def shallow(q: Any, k: Any, v: Any) -> Any:
    return attend(banded(scores(q, k), None, 0, -50.0), v)


def strictly_causal(q: Any, k: Any, v: Any) -> Any:
    return attend(banded(scores(q, k), None, -1), v)


NARROW = jax.ShapeDtypeStruct((B, T, H, 32), BF16)
REFUSED: list[tuple[str, Callable[..., Any], Sequence[Any], str]] = [
    (H100, plain, qkv(dtype=jnp.float32), "takes float16 and bfloat16, not float32"),
    (H100, mixed, qkv(), "takes float16 and bfloat16, not float32"),
    (H100, plain, qkv(d=60), "a multiple of 8 up to 256 on sm_90, not 60"),
    (H100, plain, qkv(d=264), "a multiple of 8 up to 256 on sm_90, not 264"),
    ("cuda:sm_80,cudnn=91002", plain, qkv(d=136), "a multiple of 8 up to 128 on sm_80, not 136"),
    ("cuda:sm_89,cudnn=91002", plain, qkv(d=256), "a multiple of 8 up to 128 on sm_89, not 256"),
    ("cuda:sm_100,cudnn=90800", plain, qkv(d=256), "a multiple of 8 up to 128 on sm_100, not 256"),
    ("cuda:sm_75,cudnn=91002", plain, qkv(), "runs on sm_80 and later, not on sm_75"),
    ("cuda:sm_103,cudnn=91002", plain, qkv(), "cuDNN 91002 has no attention for sm_103"),
    ("cuda:sm_90,cudnn=90700", plain, qkv(), "cuDNN 90700 is too old"),
    ("cuda:sm_90,cudnn=91000", plain, qkv(), "cuDNN 91000 has known bugs"),
    ("cuda:sm_90,cudnn=0", plain, qkv(), "there is no cuDNN"),
    (H100, plain, [*qkv()[:2], NARROW], "values as wide as keys, not 32 beside 64"),
    (H100, plain, qkv(t=8, s=16), "sequence 8 x 16 is below min-seq=32"),
    (H100, plain, qkv(t=1), "1 x 64 has too few query rows"),
    (H100, shallow, qkv(), "hidden logits are -50"),
    (H100, strictly_causal, qkv(), "hides whole rows"),
    (H100, soft_capped, qkv(), "no step 'tanh'"),
    (H100, dropout, [*qkv(), BIAS], "after the softmax"),
    (H100, mask_and_bias, [*qkv(), MASK, BIAS], "a bias is added to logits that a mask has hidden"),
    (H100, two_biases, [*qkv(), BIAS, jax.ShapeDtypeStruct((H, 1, T), BF16)], "two biases are added"),
    (H100, scaled_bias, [*qkv(), BIAS], "the bias is scaled after it is added"),
    (H100, two_fills, [*qkv(), MASK], "two masks hide with different values"),
    (H100, returned, qkv(), "used elsewhere"),
]


@pytest.mark.once
@pytest.mark.parametrize(("target", "function", "arguments", "reason"), REFUSED, ids=[row[3] for row in REFUSED])
def test_limits(target: str, function: Callable[..., Any], arguments: Sequence[Any], reason: str) -> None:
    module = lowered(function, *arguments, target=target)
    (found,) = reasons(module)
    assert reason in found
    assert "cudnn" not in module.text()


@pytest.mark.parametrize(
    ("target", "d"),
    [(H100, 256), ("cuda:sm_90a,cudnn=91002", 256), ("cuda:sm_100,cudnn=91100", 256), ("cuda:sm_80,cudnn=90800", 128)],
)
def test_the_largest_heads(target: str, d: int) -> None:
    assert only_call(lowered(plain, *qkv(d=d), target=target))[0] == "fmhaSoftmax"


# The arithmetic around the calls, with a cuDNN that is the formula.


def played_forward(
    call: cudnn.Call, q: jax.Array, k: jax.Array, v: jax.Array, bias: Any, *, log_sum_exp: bool
) -> list[jax.Array]:
    _check_call(q, k, v, bias, call)
    out, lse = _played(call, q, k, v, bias)
    return [out.astype(q.dtype), lse] if log_sum_exp else [out.astype(q.dtype)]


def played_backward(
    call: cudnn.Call, q: Any, k: Any, v: Any, bias: Any, lse: Any, out: Any, given: Any, *, bias_gradient: bool
) -> list[jax.Array]:
    """FlashAttention's backward pass: p from the log-sum-exp, and Σ p dp from out."""
    wide = [_bnth(call, x) for x in (q, k, v, out, given)]
    groups = wide[0].shape[1] // wide[1].shape[1]
    q4, k4, v4, out4, do = [jnp.repeat(x, groups, 1) if i in (1, 2) else x for i, x in enumerate(wide)]
    p = jnp.exp(_logits(call, q4, k4, bias) - lse[..., None])
    dp = jnp.einsum("bnte,bnse->bnts", do, v4)
    dx = p * (dp - (do * out4).sum(-1, keepdims=True))
    dq = jnp.einsum("bnts,bnsd->bntd", dx, k4) * call.scale
    dk = jnp.einsum("bnts,bntd->bnsd", dx, q4) * call.scale
    dv = jnp.einsum("bnts,bnte->bnse", p, do)
    dk, dv = (x.reshape(x.shape[0], -1, groups, *x.shape[2:]).sum(2) for x in (dk, dv))
    found = [_bnth(call, x).astype(q.dtype) for x in (dq, dk, dv)]
    if bias_gradient:
        axes = tuple(i for i in (0, 1) if bias.shape[i] < dx.shape[i])
        found.append(dx.sum(axes, keepdims=True).astype(bias.dtype))
    return found


def _check_call(q: Any, k: Any, v: Any, bias: Any, call: cudnn.Call) -> None:
    """What JAX's check_layout asks."""
    assert q.ndim == k.ndim == v.ndim == 4 and k.shape == v.shape
    assert q.dtype == k.dtype == v.dtype and q.shape[0] == k.shape[0] and q.shape[3] == k.shape[3]
    sequence, heads = (2, 1) if call.heads_first else (1, 2)
    assert q.shape[heads] % k.shape[heads] == 0
    if bias is not None:
        assert bias.shape[2:] == (q.shape[sequence], k.shape[sequence])
        assert bias.shape[0] in (1, q.shape[0]) and bias.shape[1] in (1, q.shape[heads])
        assert bias.dtype in (q.dtype, jnp.float32)


def _bnth(call: cudnn.Call, x: Any) -> Any:
    x = x.astype(jnp.float32)
    return x if call.heads_first else x.swapaxes(1, 2)


def _logits(call: cudnn.Call, q: Any, k: Any, bias: Any) -> Any:
    x = jnp.einsum("bntd,bnsd->bnts", q, k) * jnp.float32(call.scale)
    x = x if bias is None else x + jnp.where(jnp.isfinite(bias), bias, jnp.nan).astype(jnp.float32)
    low = None if call.window is None else 1 - call.window
    return banded(x, low, 0 if call.causal else None, -jnp.inf)


def _played(call: cudnn.Call, q: Any, k: Any, v: Any, bias: Any) -> tuple[Any, Any]:
    q, k, v = (_bnth(call, x) for x in (q, k, v))
    groups = q.shape[1] // k.shape[1]
    x = _logits(call, q, jnp.repeat(k, groups, 1), bias)
    out = jnp.einsum("bnts,bnse->bnte", jax.nn.softmax(x, axis=-1), jnp.repeat(v, groups, 1))
    return out if call.heads_first else out.swapaxes(1, 2), jax.nn.logsumexp(x, axis=-1)


@pytest.fixture
def played(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """On a machine with a GPU cuDNN plays itself."""
    if jax.default_backend() == "gpu":
        yield
        return
    monkeypatch.setattr(cudnn, "forward", played_forward)
    monkeypatch.setattr(cudnn, "backward", played_backward)
    with jax.default_matmul_precision("highest"):
        yield


@dataclasses.dataclass(frozen=True)
class Case:
    """A spec by its layouts, with steps and the dtypes of modifiers."""

    name: str
    q: str = "b t h d"
    k: str = "b s h d"
    v: str = "b s h e"
    out: str = "b t h e"
    modifiers: tuple[tuple[str, Any], ...] = ()
    steps: tuple[Step, ...] = ()
    gradients: tuple[tuple[int, str], ...] = ()
    axes: dict[str, int] = dataclasses.field(default_factory=dict)

    def spec(self, residuals: bool = False) -> AttentionSpec:
        sizes = {"b": 2, "h": 3, "g": 2, "c": 5, "t": 34, "s": 38, "d": 8, "e": 8} | self.axes
        layouts = [LAYOUT(text) for text in (self.q, self.k, self.v, self.out, *(m[0] for m in self.modifiers))]
        used = {axis for layout in layouts for axis in layout.axes}
        axes = {axis: size for axis, size in sizes.items() if axis in used}
        return AttentionSpec(axes, *layouts[:4], tuple(layouts[4:]), self.steps, residuals=residuals)

    def operands(self, spec: AttentionSpec) -> list[jax.Array]:
        random = np.random.default_rng(3)
        arrays = [
            jnp.asarray(random.standard_normal(layout.shape(spec.axes))).astype(BF16) for layout in spec.role_layouts
        ]
        for i, (layout, (_, dtype)) in enumerate(zip(spec.modifiers, self.modifiers, strict=True), 3):
            arrays[i] = arrays[i].astype(dtype)
            if dtype is bool:
                keep = random.random(layout.shape(spec.axes)) < 0.6
                keep[0] = False  # whole rows hidden
                arrays[i] = jnp.asarray(keep)
        return arrays

    def vjp(self, residuals: bool) -> AttentionVjpSpec:
        own = ((0, self.q), (1, self.k), (2, self.v), *self.gradients)
        factors = (1.0, 0.5, 2.0, *[1.0] * len(self.gradients))
        wanted = [Gradient(role, LAYOUT(text), factor) for (role, text), factor in zip(own, factors, strict=True)]
        return AttentionVjpSpec(self.spec(residuals), LAYOUT(self.out), tuple(wanted))


SCALE = Step("scale", 0.3)
CAUSAL = Step("band", -1e9, high=0)
SELECT = Step("select", -1e9, operand=3)
CASES = [
    Case("plain", steps=(SCALE,)),
    Case("heads first", "b h t d", "b h s d", "b h s e", "b h t e"),
    Case("heads first, result not", "b h t d", "b h s d", "b h s e", "b t (h e)"),
    Case("one dimension for heads and depth", "b t (h d)", "b s (h d)", "b s (h e)", "b t (h e)"),
    Case("no batch", "t h d", "s h d", "s h e", "t h e"),
    Case("one head", "t d", "s d", "s e", "t e", steps=(CAUSAL,)),
    Case("sequence first", "t b h d", "s b h d", "s b h e", "t b h e", steps=(SCALE, CAUSAL)),
    Case("two batch axes", "b c t h d", "b c s h d", "b c s h e", "b c t h e"),
    Case("grouped", "b t (h g) d", "b s h d", "b s h e", "b t (h g) e", steps=(CAUSAL,)),
    Case("groups are major", "b t (g h) d", "b s h d", "b s h e", "b t g h e"),
    Case("one key head", "b t g d", "b s d", "b s e", "b t g e"),
    Case(
        "grouped, gradients apart", "b t h g d", "b s h d", "b s h e", "b t h g e",
        gradients=((1, "g b s h d"), (2, "b s h g e")),
    ),
    Case("keys shared by the batch", "b t h d", "s h d", "b s h e", "b t h e", steps=(SCALE,)),
    Case("values transposed", v="b h e s", out="h t b e"),
    Case("causal, fewer columns", steps=(CAUSAL,), axes={"t": 50}),
    Case("window", steps=(SCALE, Step("band", -np.inf, low=-5, high=0))),
    Case("window, two steps", steps=(CAUSAL, Step("band", -1e9, low=-5), SCALE)),
    Case("band on both sides", steps=(Step("band", -1e9, low=-3, high=7),)),
    Case("band that is added", steps=(SCALE, Step("band_add", -1e9, high=4))),
    Case("mask", modifiers=(("b s", bool),), steps=(SCALE, SELECT)),
    Case("mask of rows", modifiers=(("b h t s", bool),), steps=(SELECT,)),
    Case("mask, inverted", modifiers=(("b t s", bool),), steps=(Step("select", -1e9, operand=3, negated=True),)),
    Case("mask and band", modifiers=(("b s", bool),), steps=(SCALE, CAUSAL, SELECT)),
    Case(
        "two masks and a window, grouped", "b t (h g) d", "b s h d", "b s h e", "b t (h g) e",
        modifiers=(("b s", bool), ("b t s", bool)),
        steps=(Step("band", -1e9, low=-4, high=0), SELECT, Step("select", -1e9, operand=4)),
    ),
    Case(
        "bias", modifiers=(("h t s", BF16),), steps=(SCALE, Step("add", operand=3)), gradients=((3, "h t s"),),
    ),
    Case(
        "bias without rows", modifiers=(("b h s", BF16),), steps=(Step("add", operand=3), CAUSAL),
        gradients=((3, "b h s"),),
    ),
    Case(
        "bias kept apart", modifiers=(("t s", BF16),), steps=(Step("add", operand=3),),
        gradients=((3, "b t s"),),
    ),
    Case(
        "bias, band and mask, heads first", "b h t d", "b h s d", "b h s e", "b h t e",
        modifiers=(("b s", bool), ("h t s", BF16)),
        steps=(SCALE, Step("add", operand=4), CAUSAL, SELECT), gradients=((4, "h t s"),),
    ),
]  # fmt: skip


def request_for(spec: Any, operands: Sequence[Any], results: Sequence[Any], target: str = H100) -> Request:
    def types(arrays: Sequence[Any]) -> tuple[TensorSpec, ...]:
        return tuple(TensorSpec(tuple(x.shape), np.dtype(x.dtype)) for x in arrays)

    return Request(spec, types(operands), types(results), Target.parse(target), 32)


def run(implementation: Implementation, spec: Any, operands: Sequence[Any], results: Sequence[Any]) -> Any:
    request = request_for(spec, operands, results)
    assert implementation.refuse(request) is None
    found = jax.jit(implementation.build(request))(*operands)
    assert [(x.shape, x.dtype) for x in found] == [(x.shape, x.dtype) for x in results]
    return found


def close(found: Any, wanted: Any, tolerance: float = 0.02) -> None:
    found, wanted = np.asarray(found, np.float64), np.asarray(wanted, np.float64)
    assert np.linalg.norm(found - wanted) <= tolerance * np.linalg.norm(wanted)


def expected(spec: AttentionSpec, operands: Sequence[jax.Array]) -> list[jax.Array]:
    """out, maximum and sum, as the implementation has to type them."""
    with jax.default_matmul_precision("highest"):
        with_statistics = dataclasses.replace(spec, residuals=True)
        formula = functools.partial(reference, with_statistics, dtype=jnp.float32)
        out, maximum, total = jax.jit(formula)(*operands)
    return [out.astype(BF16), maximum, total]


@pytest.mark.usefixtures("played")
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_forward_is_the_formula(case: Case) -> None:
    spec = case.spec()
    operands = case.operands(spec)
    out, maximum, total = expected(spec, operands)
    request = request_for(spec, operands, [out])
    assert cudnn_attention.refuse(request) is None
    found = jax.jit(cudnn_attention.build(request))(*operands)
    assert (found.shape, found.dtype) == (out.shape, out.dtype)
    close(found, out)
    kept, top, sums = run(cudnn_attention.IMPLEMENTATION, case.spec(True), operands, [out, maximum, total])
    close(kept, out)
    close(top + jnp.log(sums), maximum + jnp.log(total))
    # In a hidden row the logarithm of the sum is lost next to the maximum: the pair itself must be right.
    hidden = maximum < -1e6
    np.testing.assert_allclose(sums[hidden], total[hidden])


@pytest.mark.once
@pytest.mark.usefixtures("played")
@pytest.mark.parametrize(
    ("case", "residuals"),
    [*((case, True) for case in CASES), *((case, False) for case in CASES[::9])],
    ids=lambda given: getattr(given, "name", f"residuals {given}"),
)
def test_backward_is_the_formula(case: Case, residuals: bool) -> None:
    spec = case.vjp(residuals)
    operands = case.operands(spec.attention)
    out, maximum, total = expected(spec.attention, operands)
    cotangent = jnp.asarray(np.random.default_rng(5).standard_normal(out.shape)).astype(BF16)
    given = [*operands, *([out, maximum, total] if residuals else []), cotangent]
    with jax.default_matmul_precision("highest"):
        formula = functools.partial(vjp_reference, spec, dtype=jnp.float32)
        wanted = jax.jit(formula)(*given)
    typed = [x.astype(operands[g.role].dtype) for x, g in zip(wanted, spec.gradients, strict=True)]
    for found, want in zip(run(cudnn_attention_vjp.IMPLEMENTATION, spec, given, typed), typed, strict=True):
        close(found, want)


@pytest.mark.usefixtures("played")
@pytest.mark.parametrize("band", [(), (CAUSAL,), (Step("band", -1e9, high=4),)], ids=["", "causal", "band"])
def test_a_bias_in_float32_keeps_its_type(band: tuple[Step, ...]) -> None:
    case = Case("", modifiers=(("b h s", jnp.float32),), steps=(SCALE, Step("add", operand=3), *band))
    spec = case.spec()
    operands = case.operands(spec)
    found = jax.jit(cudnn_attention.build(request_for(spec, operands, operands[:1])))(*operands)
    close(found, expected(spec, operands)[0])


@pytest.mark.usefixtures("played")
def test_a_bias_that_hides_whole_rows_keeps_their_statistics() -> None:
    case = Case("additive mask", modifiers=(("b t s", jnp.float32),), steps=(SCALE, Step("add", operand=3)))
    spec = case.spec(True)
    operands = case.operands(spec)
    operands[3] = operands[3].at[0, 3].set(-np.inf).at[0, 3, 5:9].set(-1e10).at[1, :, 7].set(np.finfo("float32").min)
    out, maximum, total = expected(spec, operands)
    found, top, sums = run(cudnn_attention.IMPLEMENTATION, spec, operands, [out, maximum, total])
    assert np.isfinite(np.asarray(found, np.float32)).all()
    np.testing.assert_allclose(top[0, :, 3], maximum[0, :, 3])
    np.testing.assert_allclose(sums[0, :, 3], total[0, :, 3])


# The calls of the backward pass.


def vjp_text(spec: AttentionVjpSpec, operands: Sequence[Any], results: Sequence[Any]) -> str:
    request = request_for(spec, operands, results)
    assert cudnn_attention_vjp.refuse(request) is None
    traced = jax.jit(cudnn_attention_vjp.build(request)).trace(*operands)
    return traced.lower(lowering_platforms=("cuda",)).as_text()


@pytest.mark.parametrize("residuals", [True, False])
@pytest.mark.parametrize("bias", [True, False])
def test_given_residuals_there_is_no_forward_call(residuals: bool, bias: bool) -> None:
    modifiers = (("h t s", BF16),) if bias else ()
    steps = (SCALE, *([Step("add", operand=3)] if bias else []), CAUSAL)
    case = Case("", modifiers=modifiers, steps=steps, gradients=((3, "h t s"),) if bias else ())
    spec = case.vjp(residuals)
    operands = case.operands(spec.attention)
    out, *statistics = expected(spec.attention, operands)
    given = [*operands, *([out, *statistics] if residuals else []), out]
    found = calls(vjp_text(spec, given, operands[:4]))
    backward = "fmhaScaleBiasSoftmaxBackward" if bias else "fmhaSoftmaxBackward"
    forward = [backward.removesuffix("Backward")]
    assert [name for name, _ in found] == ([] if residuals else forward) + [backward]
    assert {config["mask_type"] for _, config in found} == {"CAUSAL"}
    assert {config["fmha_scale"] for _, config in found} == {0.3}


ADD = (Step("add", operand=3),)
ODD = {"t": 33, "s": 35}
WIDE = {"d": 256, "e": 256}
VJP_REFUSED = [
    (H100, Case("", modifiers=(("b s", bool),), steps=(SELECT,), axes=ODD), "needs even sequences, not 33 x 35"),
    (H100, Case("", modifiers=(("b s", bool),), steps=(SELECT,), axes={"s": 192}), "not right for 192 columns"),
    (H100, Case("", axes={"t": 1}), "a single query row"),
    (H100, Case("", modifiers=(("t s", BF16),), steps=ADD), "a bias without a gradient"),
    (
        H100,
        Case("", modifiers=(("t s", jnp.float32),), steps=ADD, gradients=((3, "t s"),)),
        "that cuDNN reads as float32",
    ),
    ("cuda:sm_100,cudnn=91100", Case("", axes=WIDE), "the backward pass of cuDNN's attention takes heads of a"),
    ("cuda:sm_80,cudnn=91100", Case("", axes=WIDE), "the backward pass of cuDNN's attention takes heads of a"),
]


@pytest.mark.parametrize(("target", "case", "reason"), VJP_REFUSED, ids=[row[2] for row in VJP_REFUSED])
def test_limits_of_the_backward_pass(target: str, case: Case, reason: str) -> None:
    spec = case.vjp(residuals=True)
    operands = case.operands(spec.attention)
    given = [*operands, *expected(spec.attention, operands), operands[0]]
    refusal = cudnn_attention_vjp.refuse(request_for(spec, given, operands[: len(spec.gradients)], target))
    assert refusal is not None and reason in refusal.reason


def test_gradients_in_another_type_are_refused() -> None:
    spec = Case("").vjp(residuals=False)
    operands = Case("").operands(spec.attention)
    wide = [x.astype(jnp.float32) for x in operands]
    refusal = cudnn_attention_vjp.refuse(request_for(spec, [*operands, operands[0]], wide))
    assert refusal is not None and refusal.reason == "cuDNN gives the gradient of role 0 in bfloat16, not float32"


# Our calls are JAX's: the private primitives against the public function, its questions about devices answered.


@pytest.fixture
def hopper(monkeypatch: pytest.MonkeyPatch) -> None:
    from jax._src.cudnn import fused_attention_stablehlo

    monkeypatch.setattr(fused_attention_stablehlo, "check_cudnn_version", lambda: 91002)
    monkeypatch.setattr(fused_attention_stablehlo, "check_compute_capability", lambda wanted: float(wanted) <= 9)
    monkeypatch.setattr(fused_attention_stablehlo, "is_cuda_compute_capability_equal", lambda wanted: wanted == "9.0")


@pytest.mark.usefixtures("hopper")
@pytest.mark.parametrize("biased", [False, True])
@pytest.mark.parametrize("window", [None, 16])
@pytest.mark.parametrize("causal", [False, True])
def test_calls_are_those_of_the_public_function(causal: bool, window: int | None, biased: bool) -> None:
    if window and not causal:
        return
    q, k, v = qkv(kv_heads=2)
    bias = [jax.ShapeDtypeStruct((1, H, T, T), BF16)] if biased else []

    def public(q: Any, k: Any, v: Any, *bias: Any) -> Any:
        sizes = None if window is None else (window - 1, 0)
        return jax.nn.dot_product_attention(
            q, k, v, *bias, scale=0.3, is_causal=causal, local_window_size=sizes, implementation="cudnn"
        )

    def ours(q: Any, k: Any, v: Any, given: Any, *bias: Any) -> Any:
        call = cudnn.Call(0.3, causal=causal, window=window)
        added = bias[0] if bias else None
        out, lse = cudnn.forward(call, q, k, v, added, log_sum_exp=True)
        return cudnn.backward(call, q, k, v, added, lse, out, given, bias_gradient=bool(bias))

    def pulled(q: Any, k: Any, v: Any, given: Any, *bias: Any) -> Any:
        return jax.vjp(public, q, k, v, *bias)[1](given)

    def found(function: Callable[..., Any]) -> list[tuple[str, dict[str, Any]]]:
        return calls(jax.jit(function).trace(q, k, v, q, *bias).lower(lowering_platforms=("cuda",)).as_text())

    assert len(found(ours)) == 2
    assert found(ours) == found(pulled)


@pytest.mark.usefixtures("hopper")
@pytest.mark.parametrize("d", [4, 8, 60, 64, 128, 136, 256, 264])
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.float16, BF16])
def test_what_jax_refuses_is_refused(d: int, dtype: Any) -> None:
    arguments = qkv(d=d, dtype=dtype)

    def public(q: Any, k: Any, v: Any) -> Any:
        return jax.nn.dot_product_attention(q, k, v, implementation="cudnn")

    try:
        jax.eval_shape(public, *arguments)
        jax_takes = True
    except NotImplementedError:
        jax_takes = False
    spec = dataclasses.replace(Case("").spec(), axes={"b": B, "h": H, "t": T, "s": T, "d": d, "e": d})
    refusal = cudnn_attention.refuse(request_for(spec, arguments, [arguments[0]]))
    assert (refusal is None) == jax_takes
