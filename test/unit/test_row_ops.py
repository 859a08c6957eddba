"""The zenith ops of rows (norms, softmax, cross-entropy): attributes, shapes, and composites lowered to the kernels."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jaxlib.mlir import ir

import zenith_mlir as zenith
from zenith_mlir.certify import certify_composites
from zenith_mlir.dialects import (
    cross_entropy,
    cross_entropy_vjp,
    layer_norm,
    layer_norm_vjp,
    log_softmax,
    log_softmax_vjp,
    norm,
    rms_norm,
    rms_norm_vjp,
    softmax,
    softmax_vjp,
)
from zenith_mlir.dialects.attributes import from_attribute
from zenith_mlir.dialects.flat_spec import FlatSpec
from zenith_mlir.dialects.table import OPS
from zenith_mlir.ir.context import make_context

pytestmark = pytest.mark.once

LOWER = "lower-kernels{cost-model=false}"  # the shapes are too small to pay


def draw(*shape: int, dtype: str = "float32", seed: int = 0) -> jax.Array:
    return jnp.asarray(np.random.default_rng([seed, *shape]).normal(1, 2, shape).astype(jnp.dtype(dtype)))


X, W, B, R = draw(2, 3, 40), draw(40, seed=1), draw(40, seed=2), draw(2, 3, 40, seed=3)
HALF = X.astype(jnp.bfloat16)
LABELS, ROW = jnp.array([[1, 39, 5], [-1, 0, 7]], jnp.int32), draw(2, 3, seed=4)
NORM: dict[str, Any] = {"epsilon": 1e-5, "axes": 1}

#: spec, the reference of its op, operands, the target that it is lowered to
CASES: list[tuple[FlatSpec, Callable[..., Any], tuple[jax.Array, ...], str]] = [
    (layer_norm.LayerNormSpec(**NORM), layer_norm.reference, (X,), "zenith_norm"),
    (
        layer_norm.LayerNormSpec(**NORM, weight=True, bias=True, residual=True, offset=1.0),
        layer_norm.reference,
        (HALF, R.astype(jnp.bfloat16), W, B),
        "zenith_norm",
    ),
    (
        layer_norm.LayerNormSpec(epsilon=0.1, axes=2, weight=True),
        layer_norm.reference,
        (X, draw(3, 40, seed=5)),
        "zenith_norm",
    ),
    (rms_norm.RmsNormSpec(**NORM, weight=True, offset=1.0), rms_norm.reference, (HALF, W), "zenith_norm"),
    (
        layer_norm_vjp.LayerNormVjpSpec(**NORM, weight=True, sum_cotangent=True, dweight=True, dbias=True),
        layer_norm_vjp.reference,
        (X, W, R, X),
        "zenith_norm_vjp",
    ),
    (
        layer_norm_vjp.LayerNormVjpSpec(epsilon=0.1, axes=2, dbias=True),
        layer_norm_vjp.reference,
        (X, R),
        "zenith_norm_vjp",
    ),
    (
        rms_norm_vjp.RmsNormVjpSpec(**NORM, weight=True, offset=1.0, dweight=True),
        rms_norm_vjp.reference,
        (HALF, W, R.astype(jnp.bfloat16)),
        "zenith_norm_vjp",
    ),
    (softmax.SoftmaxSpec(scale=0.5), softmax.reference, (HALF,), "zenith_softmax"),
    (log_softmax.LogSoftmaxSpec(), log_softmax.reference, (X,), "zenith_softmax"),
    (softmax_vjp.SoftmaxVjpSpec(scale=0.5), softmax_vjp.reference, (jax.nn.softmax(X), R), "zenith_softmax_vjp"),
    (
        log_softmax_vjp.LogSoftmaxVjpSpec(),
        log_softmax_vjp.reference,
        (jax.nn.log_softmax(X), R),
        "zenith_softmax_vjp",
    ),
    (cross_entropy.CrossEntropySpec(), cross_entropy.reference, (X, LABELS), "zenith_cross_entropy"),
    (
        cross_entropy.CrossEntropySpec(smoothing=0.1, z_loss=1e-3, outside="zero", residuals=True),
        cross_entropy.reference,
        (HALF, LABELS),
        "zenith_cross_entropy",
    ),
    (
        cross_entropy_vjp.CrossEntropyVjpSpec(smoothing=0.1, loss=True, infinity="nan"),
        cross_entropy_vjp.reference,
        (X, LABELS, ROW),
        "zenith_cross_entropy_vjp",
    ),
    (
        cross_entropy_vjp.CrossEntropyVjpSpec(z_loss=1e-3, lse_cotangent=True, residuals=True),
        cross_entropy_vjp.reference,
        (X, LABELS, ROW, 2 * ROW, X.max(-1), jnp.exp(X - X.max(-1, keepdims=True)).sum(-1)),
        "zenith_cross_entropy_vjp",
    ),
]
IDS = [f"{spec.OP} {i}" for i, (spec, *_) in enumerate(CASES)]


def values(spec: FlatSpec) -> dict[str, Any]:
    """The attributes as Python values."""
    with make_context(), ir.Location.unknown():
        return {name: from_attribute(value) for name, value in spec.to_attributes().items()}


def composite(spec: FlatSpec, reference: Callable[..., Any], operands: tuple[jax.Array, ...]) -> zenith.Module:
    """A program that is the op alone."""

    def decomposition(*operands: jax.Array, **_: Any) -> Any:
        return reference(spec, *operands)

    call = jax.lax.composite(decomposition, name=spec.OP)
    return zenith.trace(lambda *operands: call(*operands, **values(spec)), *operands)


@pytest.mark.parametrize(("spec", "reference", "operands", "target"), CASES, ids=IDS)
def test_a_composite_is_lowered_and_gives_the_numbers(
    spec: FlatSpec, reference: Callable[..., Any], operands: tuple[jax.Array, ...], target: str
) -> None:
    module = composite(spec, reference, operands)
    lowered = module.run(LOWER, target="cpu")
    assert lowered.text().count(f"custom_call @{target}(") == 1, [r.reason for r in lowered.remarks]
    assert "stablehlo.exponential" not in lowered.text() and "stablehlo.rsqrt" not in lowered.text()
    expected = jax.tree.leaves(reference(spec, *operands))
    found = lowered.compile()(*operands)
    spec.verify([operand.shape for operand in operands], [result.shape for result in found])  # type: ignore[attr-defined]
    for got, right in zip(found, expected, strict=True):
        assert got.dtype == right.dtype
        tolerance = 2e-5 if got.dtype == jnp.float32 else 2e-2
        np.testing.assert_allclose(
            got.astype(jnp.float32), right.astype(jnp.float32), rtol=tolerance, atol=tolerance, equal_nan=True
        )


@pytest.mark.parametrize("case", [1, 4, 7, 12], ids=lambda case: IDS[case])
def test_certificates_hold_on_adversarial_inputs(case: int) -> None:
    spec, reference, operands, _ = CASES[case]
    (certificate,) = certify_composites(composite(spec, reference, operands), target=zenith.Target.parse("cpu"))
    assert certificate.sound, certificate.summary


@pytest.mark.parametrize("spec", [spec for spec, *_ in CASES], ids=IDS)
def test_attributes_come_back(spec: FlatSpec) -> None:
    assert OPS[spec.OP].read(values(spec)) == spec


@pytest.mark.parametrize(
    ("spec", "changed", "message"),
    [
        (CASES[0][0], {"epsilon": None}, "zenith.layer_norm: the attribute epsilon is missing"),
        (CASES[0][0], {"axes": None}, "the attribute axes is missing"),
        (CASES[0][0], {"axes": 0}, "axes is 0, expected at least one"),
        (CASES[0][0], {"axes": 1.5}, "the attribute axes is 1.5, expected a int"),
        (CASES[0][0], {"weight": 1}, "the attribute weight is 1, expected a bool"),
        (CASES[0][0], {"offset": 1.0}, "offset is 1.0 and there is no weight"),
        (CASES[7][0], {"scale": "one"}, "zenith.softmax: the attribute scale is 'one', expected a float"),
        (CASES[7][0], {"scale": True}, "the attribute scale is True, expected a float"),
        (CASES[11][0], {"outside": "clip"}, 'outside is "clip", expected "fill", "zero" or "drop"'),
        (CASES[11][0], {"infinity": "big"}, 'infinity is "big", expected "inf" or "nan"'),
        (CASES[14][0], {"loss": True}, "the loss is a result of the forward"),
    ],
)
def test_bad_attributes_raise(spec: FlatSpec, changed: dict[str, Any], message: str) -> None:
    given = {name: value for name, value in (values(spec) | changed).items() if value is not None}
    with pytest.raises(ValueError, match=message.replace("(", r"\(")):
        OPS[spec.OP].read(given)


@pytest.mark.parametrize(
    ("spec", "shapes", "results", "message"),
    [
        (CASES[1][0], [(2, 8)] * 2 + [(8,)], [(2, 8)] * 2, "there are 5 operands and results, expected 6"),
        (CASES[1][0], [(2, 8)] * 2 + [(8,), (2, 8)], [(2, 8)] * 2, r"bias has shape \[2, 8\], expected \[8\]"),
        (CASES[2][0], [(8,), (8,)], [(8,)], "axes is 2, and x has 1"),
        (CASES[4][0], [(2, 8), (8,), (2, 8), (2, 8)], [(2, 8), (8,), (2,)], r"dbias has shape \[2\]"),
        (CASES[8][0], [(2, 8)], [(8, 2)], r"y has shape \[8, 2\], expected \[2, 8\]"),
        (CASES[9][0], [(2, 8), (2, 7)], [(2, 8)], r"cotangent has shape \[2, 7\]"),
        (CASES[11][0], [(2, 8), (8,)], [(2,)], r"labels has shape \[8\], expected \[2\]"),
        (CASES[11][0], [(), ()], [()], "logits is a scalar"),
        (CASES[14][0], [(2, 8), (2,), (2,), (2,), (2,), (3,)], [(2, 8)], r"sum has shape \[3\], expected \[2\]"),
    ],
)
def test_shapes_are_verified(spec: Any, shapes: Any, results: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        spec.verify(shapes, results)


def refusal(spec: FlatSpec, reference: Callable[..., Any], *operands: jax.Array) -> str:
    lowered = composite(spec, reference, operands).run(LOWER, target="cpu")
    assert "zenith" not in lowered.text()
    (remark,) = [r for r in lowered.remarks if r.kind == "missed"]
    return remark.reason


def test_what_the_kernels_do_not_take_is_left_to_xla() -> None:
    with jax.enable_x64(True):
        wide = X.astype(jnp.float64)
        floats = "the CPU kernel takes float32, bfloat16, float16, not float64"
        assert refusal(layer_norm.LayerNormSpec(**NORM), norm.reference, wide) == floats
        assert refusal(softmax.SoftmaxSpec(), softmax.reference, wide) == floats
        assert refusal(cross_entropy.CrossEntropySpec(), cross_entropy.reference, wide, LABELS) == floats
    empty = (jnp.zeros((2, 0)), jnp.zeros(2, jnp.int32))
    spec = softmax.SoftmaxSpec()
    assert composite(spec, softmax.reference, empty[:1]).run(LOWER, target="cpu").text().count("custom_call")


def test_an_op_is_not_tied_to_others_that_use_its_second_result() -> None:
    """The sum of one norm is an operand of the next, which is lowered or not for reasons of its own."""
    spec = layer_norm.LayerNormSpec(**NORM, residual=True)

    def one(x: jax.Array, r: jax.Array, **_: Any) -> Any:
        return norm.reference(spec, x, r)

    def two(x: jax.Array, r: jax.Array) -> Any:
        out, total = jax.lax.composite(one, name=spec.OP)(x, r, **values(spec))
        return out, jax.lax.composite(one, name="zenith.unheard_of")(out, total)

    lowered = zenith.trace(two, X, R).run(LOWER, target="cpu")
    assert lowered.text().count("custom_call @zenith_norm(") == 1
    assert [r.reason for r in lowered.remarks if r.kind == "missed"] == ["this version knows no such op"]
