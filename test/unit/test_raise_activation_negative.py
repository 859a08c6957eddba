"""raise-activation: what is no activation is left alone, and what nearly is one gets one remark that says why."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from activation_programs import BF16, F32, ROOT, Function, array, missed, passed, raised
from hypothesis import given, settings
from hypothesis import strategies as st

from zenith_mlir.dialects import gelu, silu
from zenith_mlir.dialects.attributes import from_attribute
from zenith_mlir.dialects.gelu import GeluSpec
from zenith_mlir.dialects.silu import SiluSpec
from zenith_mlir.ir.composites import composite_attributes, composite_name, zenith_composites

pytestmark = pytest.mark.once

X = array(3, 8)


def tanh_form(half: float = 0.5, one: float = 1.0, root: float = ROOT, cubic: float = 0.044715, power: int = 3) -> Any:
    return lambda x: half * x * (one + jnp.tanh(root * (x + cubic * x**power)))


NEAR: dict[str, tuple[Function, str]] = {
    "0.0447": (tanh_form(cubic=0.0447), "the factor of x³ is 0.0447, GELU has 0.044715"),
    "0.8": (tanh_form(root=0.8), "the factor of x is 0.8, GELU has √(2/π) = 0.797885"),
    "no half": (tanh_form(half=1.0), "it is 2 times GELU"),
    "1.1 + tanh": (tanh_form(one=1.1), "1.1 is added to tanh, GELU has 1"),
    "x²": (tanh_form(power=2), "the argument of tanh has x² where GELU has x³"),
    "x³ outside": (
        lambda x: 0.5 * x * (1 + jnp.tanh(ROOT * x + 0.044715 * x**3)),
        "the factor of x³ is 0.0560419, GELU has 0.044715",
    ),
    "erf(x)": (lambda x: 0.5 * x * (1 + jax.lax.erf(x)), "erf takes 1 x, GELU takes x / √2 = 0.707107 x"),
    "0.7071": (lambda x: 0.5 * x * (1 + jax.lax.erf(x * 0.7071)), "erf takes 0.7071 x, GELU takes x / √2 = 0.707107 x"),
    "erfc without half": (lambda x: x * jax.lax.erfc(-x * 0.5**0.5), "it is 2 times GELU"),
    "1.5 silu": (lambda x: (x * 1.5) * jax.nn.sigmoid(x), "it is 1.5 times SiLU"),
    "shifted silu": (lambda x: x * jax.nn.sigmoid(x + 0.5), "the argument of tanh is shifted by 0.25"),
    "x / (1 + 2 exp(-x))": (lambda x: x / (1 + 2 * jnp.exp(-x)), "the argument of tanh is shifted by -0.346574"),
}


@pytest.mark.parametrize("name", NEAR)
def test_a_near_miss_has_one_remark(name: str) -> None:
    function, reason = NEAR[name]
    module = raised(function, X)
    assert passed(module) == [] and missed(module) == [reason]
    assert "zenith" not in module.text()


@pytest.mark.parametrize("name", ["0.8", "no half", "x²", "erf(x)"])
def test_near_misses_in_training_and_in_bfloat16(name: str) -> None:
    def loss(x: jax.Array, w: jax.Array) -> jax.Array:
        return jnp.square(NEAR[name][0](x @ w) @ w.T).astype(F32).sum()

    for dtype in (F32, BF16):
        module = raised(jax.value_and_grad(loss, argnums=(0, 1)), X.astype(dtype), array(8, 6, dtype=dtype))
        assert passed(module) == [] and len(missed(module)) == 1


def test_constants_of_bfloat16_are_those_of_gelu_only_in_bfloat16() -> None:
    rounded = tanh_form(root=0.796875, cubic=0.044677734375)
    assert len(passed(raised(rounded, X.astype(BF16)))) == 1
    assert passed(raised(rounded, X)) == []


def lstm(x: jax.Array) -> jax.Array:
    i, f, g, o = jnp.split(x, 4, axis=-1)
    c = jax.nn.sigmoid(f) * f + jax.nn.sigmoid(i) * jnp.tanh(g)
    return jax.nn.sigmoid(o) * jnp.tanh(c)


OTHERS: dict[str, Function] = {
    **{f.__name__: f for f in (
        jax.nn.relu, jax.nn.softplus, jax.nn.mish, jax.nn.hard_swish, jax.nn.elu, jax.nn.celu, jax.nn.selu, jax.nn.glu,
        jax.nn.sigmoid, jax.nn.log_sigmoid, jax.nn.soft_sign, jax.nn.squareplus, jax.nn.softmax, jax.nn.log_softmax,
        jax.nn.logsumexp, jnp.tanh, jnp.exp, jax.lax.erf, jax.nn.standardize,
    )},
    "soft cap": lambda x: 30 * jnp.tanh(x / 30),
    "x tanh(x)": lambda x: x * jnp.tanh(x),
    "x - tanh(x)": lambda x: x - jnp.tanh(x),
    "x exp(-x²)": lambda x: x * jnp.exp(-x * x),
    "x σ(-x)": lambda x: x * jax.nn.sigmoid(-x),
    "x² σ(x)": lambda x: x * x * jax.nn.sigmoid(x),
    "|x| σ(x)": lambda x: jnp.abs(x) * jax.nn.sigmoid(x),
    "x σ(y)": lambda x: x * jax.nn.sigmoid(jnp.flip(x)),
    "x (1 - tanh) / 2": lambda x: 0.5 * x * (1 - jnp.tanh(ROOT * (x + 0.044715 * x**3))),
    "random": lambda x: x * jax.random.normal(jax.random.key(0), x.shape),
    "clipped result": lambda x: jnp.clip((x * 1.5) * jax.nn.sigmoid(x), -3, 3),
}  # fmt: skip


@pytest.mark.parametrize("name", OTHERS)
def test_other_functions_are_left_alone_without_a_word(name: str) -> None:
    module = raised(OTHERS[name], X)
    assert passed(module) == [] and missed(module) == []


def test_gates_of_an_lstm() -> None:
    module = raised(lambda x: lstm(x[:, :4]) + jax.nn.sigmoid(x[:, 4:5]) * jnp.tanh(x[:, 5:6]), X)
    # σ(f) f is one, by whatever name.
    assert [op for op, _ in passed(module)] == ["zenith.silu"] and missed(module) == []


def test_an_argument_clipped_far_out_is_not_the_activation_of_what_is_clipped() -> None:
    module = raised(lambda x: (y := jnp.minimum(x, 1e4)) * jax.nn.sigmoid(x) + 0 * y, X)
    assert passed(module) == []


@settings(max_examples=40, deadline=None)
@given(
    st.sampled_from(["tanh", "erf", "logistic"]),
    st.lists(st.sampled_from([1.0, 1.0, 1.0, 1 + 1e-5, 0.999, 1.02, 2.0, -1.0]), min_size=4, max_size=4),
    st.integers(1, 3),
)
def test_whatever_is_raised_is_what_it_is_called(curve: str, off: list[float], power: int) -> None:
    """Constants, signs and powers are perturbed: what is raised all the same computes what its attributes mean."""

    def function(x: Any) -> Any:
        if curve == "logistic":
            return off[0] * x / (off[1] + off[2] * jnp.exp(-off[3] * x))
        if curve == "erf":
            return 0.5 * off[0] * x * (off[1] + jax.lax.erf(x * 0.5**0.5 * off[2]))
        return 0.5 * off[0] * x * (off[1] + jnp.tanh(ROOT * off[2] * (x + 0.044715 * off[3] * x**power)))

    module = raised(function, X)
    assert len(passed(module)) + len(missed(module)) <= 1
    for composite in zenith_composites(module.operation):
        attributes = from_attribute(composite_attributes(composite))
        with jax.enable_x64(True):
            x = jnp.linspace(-10, 10, 201, dtype=jnp.float64)
            if composite_name(composite) == gelu.NAME:
                means = gelu.reference(GeluSpec.from_attributes(attributes), x, dtype=jnp.float64)
            else:
                means = silu.reference(SiluSpec.from_attributes(attributes), x, dtype=jnp.float64)
            np.testing.assert_allclose(means, function(x), rtol=0, atol=3e-6)
