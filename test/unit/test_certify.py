"""certify: sound rewrites pass, wrong ones do not, each for the reason stated."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest

from zenith_mlir.certify import Case, Certificate, certify_composites, certify_pair
from zenith_mlir.certify.composites import isolated_composites
from zenith_mlir.certify.inputs import InputSet, adversarial_inputs
from zenith_mlir.certify.judge import Neighbour, judge_result
from zenith_mlir.certify.roles import Role, argument_roles
from zenith_mlir.errors import ZenithError
from zenith_mlir.module import Module

pytestmark = pytest.mark.once

ULP = float(np.finfo(np.float32).eps)


def traced(function: Callable[..., Any], *arrays: Any) -> Module:
    return Module.parse(jax.jit(function).lower(*arrays).as_text())


def normal(*shape: int, seed: int = 0, dtype: Any = np.float32) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(dtype)


# Attention, and rewrites of it. The first argument of a maker is the dtype of the fill.
B, T, S, D = 2, 24, 40, 16
QKV = (normal(B, T, D), normal(B, S, D, seed=1), normal(B, S, D, seed=2))
MASK = np.random.default_rng(3).random((B, T, S)) < 0.7
MASK[:, 5] = False


def attention(q: Any, k: Any, v: Any, mask: Any, fill: float = -1e9, scale: float = D**-0.5) -> Any:
    logits = jnp.where(mask, jnp.einsum("btd,bsd->bts", q, k) * scale, fill)
    return jnp.einsum("bts,bsd->btd", jax.nn.softmax(logits, axis=-1), v)


def normalised_last(q: Any, k: Any, v: Any, mask: Any, fill: float = -1e9) -> Any:
    """As flash attention does: the denominator divides the output, not the probabilities."""
    logits = jnp.where(mask, jnp.einsum("btd,bsd->bts", q * D**-0.5, k), fill)
    weights = jnp.exp(logits - logits.max(-1, keepdims=True))
    return jnp.einsum("bts,bsd->btd", weights, v) / weights.sum(-1, keepdims=True)


def zero_where_nothing_is_seen(q: Any, k: Any, v: Any, mask: Any) -> Any:
    return jnp.where(mask.any(-1, keepdims=True), normalised_last(q, k, v, mask), 0.0)


def nan_where_nothing_is_seen(q: Any, k: Any, v: Any, mask: Any) -> Any:
    return attention(q, k, v, mask, fill=-jnp.inf)


def verdict(original: Any, rewritten: Any, arrays: tuple[Any, ...] = (*QKV, MASK), **policy: Any) -> Certificate:
    modules = traced(original, *arrays), traced(rewritten, *arrays)
    return certify_pair(*modules, inputs=[("given", arrays)], **policy)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_another_order_of_operations_is_sound(dtype: str) -> None:
    arrays = (*(x.astype(dtype) for x in QKV), MASK)
    certificate = verdict(partial(attention, fill=-3e4), partial(normalised_last, fill=-3e4), arrays)
    assert certificate.sound, certificate.summary
    assert 0 < certificate.worst_ratio < 4


WRONG: dict[str, tuple[Any, str]] = {
    "mask dropped": (lambda q, k, v, m: attention(q, k, v, m | True), "error"),
    "scale off by 1e-3": (lambda q, k, v, m: attention(q, k, v, m, scale=D**-0.5 * 1.001), "error"),
    "scale off by 1e-5": (lambda q, k, v, m: attention(q, k, v, m, scale=D**-0.5 * 1.00001), "error"),
    "rounded to bfloat16": (
        lambda q, k, v, m: attention(q.astype("bfloat16").astype("float32"), k, v, m),
        "error",
    ),
    "causal instead of the mask": (lambda q, k, v, m: attention(q, k, v, jnp.tril(m | True)), "error"),
    "zero in a masked row": (zero_where_nothing_is_seen, "error"),
    "NaN in a masked row": (nan_where_nothing_is_seen, "new NaN or inf"),
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_rewrites_are_unsound(name: str) -> None:
    rewritten, reason = WRONG[name]
    certificate = verdict(attention, rewritten)
    assert not certificate.sound
    assert not certificate.accepted
    assert reason in certificate.summary


def test_hiding_the_nan_of_a_row_without_an_answer_is_unsound() -> None:
    certificate = verdict(nan_where_nothing_is_seen, zero_where_nothing_is_seen)
    assert not certificate.sound
    assert "NaN or inf lost" in certificate.summary


def test_an_overflow_that_the_rewrite_avoids_is_sound() -> None:
    """exp(x) / sum exp(x) overflows in float32 and not in float64: softmax may replace it."""
    x = np.linspace(0, 200, 32, dtype=np.float32)

    def plain(x: Any) -> Any:
        return jnp.exp(x) / jnp.exp(x).sum()

    assert verdict(plain, jax.nn.softmax, (x,)).sound
    assert not verdict(jax.nn.softmax, plain, (x,)).sound


def test_bfloat16_original_allows_bfloat16_errors_and_no_more() -> None:
    x = normal(64, 64, dtype=ml_dtypes.bfloat16)

    def original(x: Any) -> Any:
        return (x @ x) * x

    def wider(x: Any) -> Any:
        return original(x.astype("float32")).astype("bfloat16")

    assert verdict(original, wider, (x,)).sound
    assert not verdict(original, lambda x: original(x) * 1.1, (x,)).sound


def test_gradient_that_is_zero_in_exact_arithmetic() -> None:
    """The gradient of the key bias is rounding noise in every program: any order of summation is as good."""
    arrays = (*QKV, np.zeros(D, np.float32))

    def gradient(function: Any) -> Any:
        return jax.grad(lambda q, k, v, b: (function(q, k + b, v, MASK) * v.mean(1, keepdims=True)).sum(), argnums=3)

    certificate = verdict(gradient(attention), gradient(normalised_last), arrays)
    assert certificate.cases[0].error_original > 0.5
    assert certificate.sound, certificate.summary


def test_integers_must_be_the_judges() -> None:
    x = normal(8, 32)
    assert verdict(lambda x: jnp.argmax(x, -1), lambda x: jnp.argmax(2 * x, -1), (x,)).sound
    certificate = verdict(lambda x: jnp.argmax(x, -1), lambda x: jnp.argmin(x, -1), (x,))
    assert not certificate.sound
    assert certificate.cases[0].measure == "mismatches"


def test_policies() -> None:
    other, wrong = normalised_last, WRONG["mask dropped"][0]
    assert verdict(attention, attention, numerics="exact").accepted
    assert not verdict(attention, other, numerics="exact").accepted
    assert "DIFFERENT BITS" in verdict(attention, other, numerics="exact").summary
    assert verdict(attention, wrong, numerics="fast").accepted
    assert not verdict(attention, wrong, numerics="fast").sound


def test_other_signature_is_refused() -> None:
    with pytest.raises(ZenithError, match="keeps the signature of main"):
        verdict(lambda x: x, lambda x: x.astype("bfloat16"), (normal(3),))


# The judge alone, on arrays.


def judged(original: Any, rewritten: Any, judge: Any, neighbours: Any = ()) -> Case:
    original, rewritten = np.asarray(original, np.float32), np.asarray(rewritten, np.float32)
    return judge_result("", 0, original, rewritten, np.asarray(judge, np.float64), neighbours)


def test_factor_two() -> None:
    judge = np.ones(16)
    assert judged(judge + 1e-4, judge + 1.9e-4, judge).sound
    assert not judged(judge + 1e-4, judge + 2.1e-4, judge).sound


def test_floor_is_four_ulp() -> None:
    judge = np.ones(16)
    assert judged(judge, judge + 3 * ULP, judge).sound
    assert not judged(judge, judge + 6 * ULP, judge).sound


def test_huge_row_does_not_hide_errors_in_the_others() -> None:
    judge = np.ones((4, 16))
    judge[2] = 1e20
    wrong = judge.copy()
    wrong[0] *= 1.01
    case = judged(judge, wrong, judge)
    assert not case.sound
    assert case.measure == "row"


def test_small_number_among_large_ones_is_judged_by_its_row() -> None:
    judge = np.ones(64)
    judge[3] = 1e-9
    near = judge.copy()
    near[3] = 3e-8
    assert judged(judge, near, judge).sound


def test_lucky_original_is_judged_by_its_neighbours() -> None:
    judge, luck = np.float64(1.0), np.float32(1.0)
    rewritten = np.float32(1 + 1e-4)
    unlucky = Neighbour(np.float32(1 + 0.8e-4), np.float64(1.0))
    assert not judged(luck, rewritten, judge).sound
    assert judged(luck, rewritten, judge, [unlucky]).sound


def test_sway_of_the_judge_is_granted() -> None:
    judge = np.ones(4)
    swayed = Neighbour(np.float32([1.01] * 4), np.float64([1.01] * 4))
    assert judged(judge, judge * 1.015, judge, [swayed]).sound
    assert not judged(judge, judge * 1.03, judge, [swayed]).sound


def test_below_the_smallest_normal_float32_is_zero() -> None:
    judge = np.full(8, 1e-39)
    assert judged(np.zeros(8), np.zeros(8), judge).sound
    assert judged(judge, np.zeros(8), judge).sound


def test_nonfinite_places() -> None:
    nan, inf = np.nan, np.inf
    assert judged([nan, inf, 1], [nan, inf, 1], [nan, inf, 1]).sound
    assert judged([nan, 1, 1], [nan, nan, 1], [nan, 1, 1]).new_nonfinite == 1
    assert judged([1, 1, 1], [1, nan, 1], [1, nan, 1]).new_nonfinite == 1, (
        "new to the original, whatever the judge says"
    )
    assert judged([nan, 1, 1], [0, 1, 1], [nan, 1, 1]).lost_nonfinite == 1
    assert judged([inf, 1, 1], [-inf, 1, 1], [inf, 1, 1]).lost_nonfinite == 1
    assert judged([inf, 1, 1], [2.0, 1, 1], [2.0, 1, 1]).sound, "the original overflowed"
    assert judged([nan, 1, 1], [inf, 1, 1], [nan, 1, 1]).sound, "infinity less infinity in another order"
    assert judged([inf, 1, 1], [nan, 1, 1], [inf, 1, 1]).lost_nonfinite == 1
    assert judged([inf, nan, 1], [nan, inf, 1], [inf, nan, 1]).sound, "a row that has no answer"
    assert judged([inf, nan, 1], [2, nan, 1], [inf, nan, 1]).lost_nonfinite == 1
    assert judged([3.4e38, 1, 1], [inf, 1, 1], [3.4028234e38, 1, 1]).new_nonfinite == 0, "within 4 ulp of infinity"
    assert judged([3e38, 1, 1], [inf, 1, 1], [4e38, 1, 1]).new_nonfinite == 0, "rounds to infinity"
    assert judged([3e38, 1, 1], [-inf, 1, 1], [4e38, 1, 1]).new_nonfinite == 1
    assert judged([3e38, 1, 1], [inf, 1, 1], [3e38, 1, 1]).new_nonfinite == 1
    assert judged([nan, nan], [nan, nan], [nan, nan]).judged == 0.0


def test_empty_and_scalar_results() -> None:
    assert judged(np.zeros((0, 4)), np.zeros((0, 4)), np.zeros((0, 4))).sound
    assert judged(2.0, 2.0, 2.0).sound
    assert not judged(2.0, 2.1, 2.0).sound


def test_complex_results() -> None:
    z = np.array([1 + 1j, 2 - 1j], np.complex64)
    assert judge_result("", 0, z, z * np.complex64(1 + ULP), z.astype(np.complex128)).sound
    assert not judge_result("", 0, z, z.conj(), z.astype(np.complex128)).sound


# Inputs.


def test_adversarial_inputs_name_what_they_hold() -> None:
    roles = [
        Role((4, 8), np.dtype(np.float32)),
        Role((4, 8), np.dtype(ml_dtypes.bfloat16)),
        Role((4, 8), np.dtype(bool)),
        Role((4,), np.dtype(np.int32), bound=9),
    ]
    sets = dict(adversarial_inputs(roles))
    assert all(a.shape == r.shape and a.dtype == r.dtype for s in sets.values() for a, r in zip(s, roles, strict=True))
    assert np.isnan(sets["one NaN in argument 0"][0]).sum() == 1
    assert np.isnan(sets["one NaN in argument 0"][1].astype(np.float32)).sum() == 0
    assert np.isneginf(sets["a row of -inf in argument 1"][1].astype(np.float32)).all(axis=-1).sum() == 1
    assert (np.abs(sets["denormals"][0]) < np.finfo(np.float32).tiny).all()
    assert sets["denormals"][0].any()
    assert np.signbit(sets["negative zeros"][0]).all()
    assert (~sets["a row false in argument 2"][2]).all(axis=-1).sum() == 1
    assert (sets["the highest in argument 3"][3] == 8).all()


def test_inputs_are_reproducible() -> None:
    roles = [Role((4, 8), np.dtype(np.float32)), Role((3,), np.dtype(bool))]

    def bits(sets: Iterable[InputSet]) -> list[bytes]:
        return [array.tobytes() for _, arrays in sets for array in arrays]

    first, second, third = (list(adversarial_inputs(roles, seed)) for seed in (7, 7, 8))
    assert bits(first) == bits(second) != bits(third)


# Composites.


def raised(function: Any, *arrays: Any) -> Module:
    return traced(function, *arrays).run("prepare,raise-attention", target="none")


def two_layers(q: Any, k: Any, v: Any, mask: Any) -> Any:
    q = attention(q, k, v, mask)
    q = attention(q, k, v, mask)
    return attention(q, k, v, mask, scale=0.5)


def test_composites_alone() -> None:
    alone = list(isolated_composites(raised(two_layers, *QKV, MASK)))
    assert [name for name, _ in alone] == ["zenith.attention"] * 2, "the first two are the same"
    for _, module in alone:
        assert module.operation.verify()
        assert [spec.shape for spec in module.input_specs][:3] == [x.shape for x in QKV]


def test_composites_are_certified() -> None:
    certificates = certify_composites(raised(attention, *QKV, MASK))
    assert len(certificates) == 1
    (certificate,) = certificates
    assert certificate.op == "zenith.attention"
    assert certificate.sound, certificate.summary
    names = {case.name for case in certificate.cases}
    assert {"ordinary", "zeros", "a row false in argument 3", "one NaN in argument 0"} <= names


@pytest.mark.parametrize(
    ("wreck", "reason"),
    [
        ("stablehlo.multiply %0, %c", "error"),
        ("stablehlo.divide %0, %0", "new NaN or inf"),
    ],
)
def test_wrong_kernel_is_caught(wreck: str, reason: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A lowering that changes the result of every composite."""
    module = raised(attention, *QKV, MASK)
    run = Module.run

    def wrong_lowering(self: Module, pipeline: str, **options: Any) -> Module:
        text = run(self, "expand-composites,canonicalize").text()
        result = text.split("return ")[1].split(" :")[0]
        tail = f"%c = stablehlo.constant dense<1.001> : tensor<{B}x{T}x{D}xf32>\n"
        tail += f"%wrong = {wreck.replace('%0', result)} : tensor<{B}x{T}x{D}xf32>\nreturn %wrong"
        return Module.parse(text.replace(f"return {result}", tail))

    monkeypatch.setattr(Module, "run", wrong_lowering)
    (certificate,) = certify_composites(module)
    assert not certificate.sound
    assert reason in certificate.summary


def test_roles_of_a_small_model() -> None:
    def model(table: Any, weight: Any, gain: Any, bias: Any, variance: Any, ids: Any, mask: Any, key: Any) -> Any:
        x = table[ids] * mask[..., None].astype("float32")
        x = (x @ weight) / jnp.sqrt(variance + 1e-5) * gain + bias
        return x + jax.random.uniform(key, (8,))

    roles = argument_roles(
        traced(
            model, normal(50, 12), normal(12, 8), normal(8), normal(8), normal(8),
            np.zeros((2, 5), np.int32), np.zeros((2, 5), np.int32), np.zeros(2, np.uint32),
        )
    )  # fmt: skip
    table, weight, gain, bias, variance, ids, mask, _ = roles
    assert ids.bound == 50
    assert mask.bound is None
    assert weight.fan_in == 12
    assert gain.gain
    assert variance.positive
    assert not bias.gain
    assert not bias.positive
    assert not table.positive


def test_roles_pass_through_calls_and_loops() -> None:
    def model(table: Any, ids: Any) -> Any:
        def body(i: Any, total: Any) -> Any:
            return total + jnp.take(table, ids[i], axis=0, mode="clip").sum()

        return jax.lax.fori_loop(0, 3, body, jnp.float32(0))

    assert argument_roles(traced(model, normal(30, 4), np.zeros(3, np.int32)))[1].bound == 30


def test_factors_of_a_contraction_are_not_given_the_lowest_number() -> None:
    """Whether their sums of products overflow hangs on the order; an additive mask meets it and must survive."""

    def biased(q: Any, k: Any, bias: Any) -> Any:
        return jax.nn.softmax((q * 0.2 + 1.0) @ k.T + bias, axis=-1)

    roles = argument_roles(traced(biased, normal(4, 8), normal(6, 8), normal(4, 6)))
    assert [role.factor for role in roles] == [True, True, False]
    names = {name for name, _ in adversarial_inputs(roles)}
    assert "a row of the lowest in argument 2" in names
    assert not {"a row of the lowest in argument 0", "a row of the lowest in argument 1"} & names
