"""raise-layernorm: every spelling of a norm and of its gradient, near misses with their remark, and the numbers."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from norm_programs import (
    GROUPS,
    SPELLINGS,
    B,
    C,
    D,
    R,
    Spelling,
    W,
    X,
    array,
    loss_of,
    mean,
    narrow,
    one_pass,
    rms,
    two_passes,
)
from raised import assert_attributes_hold, names, remarks, spec_of

import zenith_mlir as zenith
from zenith_mlir.certify import certify_composites

RAISE = "prepare,raise-layernorm"


def raised(function: Callable[..., Any], *arguments: jax.Array) -> zenith.Module:
    return zenith.trace(function, *arguments).run(RAISE, target="none")


def name_of(spelling: Spelling) -> str:
    return spelling.name


@pytest.mark.parametrize("spelling", SPELLINGS, ids=name_of)
def test_spellings(spelling: Spelling) -> None:
    module = raised(spelling.function, *spelling.arguments)
    assert names(module) == [spelling.op]
    (remark,) = remarks(module, "passed", "raise-layernorm")
    assert remark.op == f"zenith.{spelling.op}"
    assert not remarks(module, "missed", "raise-layernorm")
    spec = spec_of(module)
    assert {name: getattr(spec, name) for name in spelling.facts} == spelling.facts
    assert_attributes_hold(module)


@pytest.mark.parametrize("spelling", SPELLINGS, ids=name_of)
def test_gradients(spelling: Spelling) -> None:
    numbers = tuple(range(len(spelling.arguments)))
    module = raised(jax.value_and_grad(loss_of(spelling.function), numbers), *spelling.arguments)
    assert names(module) == [spelling.op, f"{spelling.op}_vjp"]
    forward, backward = spec_of(module), spec_of(module, 1)
    same = ("epsilon", "axes", "weight", "offset")
    assert [getattr(forward, name) for name in same] == [getattr(backward, name) for name in same]
    assert (backward.dweight, backward.dbias) == (forward.weight, forward.bias)
    assert_attributes_hold(module)


@pytest.mark.once
def test_another_use_of_x_adds_its_cotangent() -> None:
    module = raised(jax.grad(loss_of(lambda x, w, b: x + one_pass(x, w, b)), (0, 1, 2)), X, W, B)
    assert names(module)[-1] == "layer_norm_vjp"
    assert spec_of(module, -1).sum_cotangent
    assert_attributes_hold(module)


@pytest.mark.once
def test_a_gradient_that_is_used_alone_and_in_a_sum_is_computed_once() -> None:
    def block(x: jax.Array, k: jax.Array, w: jax.Array) -> jax.Array:
        return rms(x + x @ k) * w

    module = raised(jax.grad(loss_of(block), (0, 1, 2)), X, array(40, 40), W)
    assert names(module) == ["rms_norm", "rms_norm_vjp"]
    assert not spec_of(module, 1).sum_cotangent
    assert "rsqrt" not in module.text().split("func.func private")[0]
    assert_attributes_hold(module)


@pytest.mark.once
def test_cotangents_made_of_the_result() -> None:
    module = raised(jax.grad(lambda x, w, b: jnp.mean(jnp.square(one_pass(x, w, b))), (0, 1, 2)), X, W, B)
    assert names(module) == ["layer_norm", "layer_norm_vjp"]
    assert_attributes_hold(module)


@pytest.mark.once
def test_frozen_weights_have_no_gradient() -> None:
    module = raised(jax.grad(loss_of(one_pass)), X, W, B)
    assert (spec_of(module, -1).dweight, spec_of(module, -1).dbias) == (False, False)
    assert_attributes_hold(module)


@pytest.mark.once
def test_checkpointed_layers_are_one_site_each() -> None:
    @jax.checkpoint
    def layer(x: jax.Array, w: jax.Array) -> jax.Array:
        return x + jnp.tanh(rms(x) * w)

    def model(x: jax.Array, w: jax.Array) -> jax.Array:
        return jax.lax.scan(lambda x, w: (layer(x, w), None), x, w)[0]

    module = raised(jax.grad(loss_of(model), (0, 1)), X, jnp.stack([W, B]))
    passed = [remark.op for remark in remarks(module, "passed", "raise-layernorm")]
    assert sorted(passed) == ["zenith.rms_norm", "zenith.rms_norm_vjp"]
    assert_attributes_hold(module)


def layer_norm(x: jax.Array, w: jax.Array) -> jax.Array:
    return two_passes(x) * w


def clamped(x: jax.Array, w: jax.Array) -> jax.Array:
    return one_pass(x, w, w)


LOOPED: dict[str, Callable[..., jax.Array]] = {
    "two passes": layer_norm,
    "one pass": clamped,
    "deviations": lambda x, w: w * (x - mean(x)) / jnp.sqrt(jnp.var(x, -1, keepdims=True) + 1e-5),
    "rms": lambda x, w: rms(x) * w,
    "rms, weight first": lambda x, w: w * x / jnp.sqrt(mean(x * x) + 1e-5),
    "rms by powers": lambda x, w: w * x * (mean(x**2) + 1e-5) ** -0.5,
}


@pytest.mark.parametrize("norm", LOOPED.values(), ids=LOOPED)
def test_loops_keep_x_for_the_gradient_and_nothing_inside_of_the_norm(norm: Callable[..., jax.Array]) -> None:
    """Of each layer a scan stacks x, the normalised rows and tanh of these; two-pass variances need no x as written."""

    def model(x: jax.Array, w: jax.Array) -> jax.Array:
        return jax.lax.scan(lambda x, w: (x + jnp.tanh(norm(x, w)), None), x, w)[0]

    arguments = X, jnp.stack([W, B])
    function = jax.grad(loss_of(model), (0, 1))
    module = raised(function, *arguments)
    found = names(module)
    assert sorted(found) == [found[0], f"{found[0]}_vjp"]
    assert len(re.findall(r"dynamic_update_slice.*tensor<2x2x3x40xf32>, tensor<1x2x3x40xf32>", module.text())) <= 3
    assert_attributes_hold(module)
    for own, expected in zip(module.compile("cpu")(*arguments), jax.tree.leaves(function(*arguments)), strict=True):
        np.testing.assert_allclose(own, expected, rtol=1e-4, atol=1e-4)


NEAR_MISSES = {
    "epsilon outside": (
        lambda x: (x - mean(x)) / (jnp.std(x, -1, keepdims=True) + 1e-5),
        "epsilon is added to the root of the variance",
    ),
    "rms, epsilon outside": (lambda x: x / (jnp.sqrt(mean(x * x)) + 1e-5), "epsilon is added to the root"),
    "unbiased": (
        lambda x: (x - mean(x)) / jnp.sqrt(jnp.var(x, -1, keepdims=True, ddof=1) + 1e-5),
        "the variance is divided by 39, not by 40",
    ),
}


@pytest.mark.once
@pytest.mark.parametrize("name", NEAR_MISSES)
def test_near_misses_get_one_remark(name: str) -> None:
    function, reason = NEAR_MISSES[name]
    module = raised(function, X)
    assert names(module) == []
    (remark,) = remarks(module, "missed", "raise-layernorm")
    assert reason in remark.reason


OTHERS: dict[str, Callable[..., Any]] = {
    "the variance of something else": lambda x, r: (x - mean(x)) * jax.lax.rsqrt(mean(jnp.square(r - mean(r))) + 1e-5),
    "the mean of something else": lambda x, r: (x - mean(r)) * jax.lax.rsqrt(jnp.var(x, -1, keepdims=True) + 1e-5),
    "fourth powers": lambda x, r: x * jax.lax.rsqrt(mean(x**4) + 1e-5),
    "the root of the root": lambda x, r: x / jnp.sqrt(jnp.sqrt(mean(x * x) + 1e-5)),
    "cubed root": lambda x, r: (x - mean(x)) * jax.lax.rsqrt(jnp.var(x, -1, keepdims=True) + 1e-5) ** 3,
    "the largest": lambda x, r: (x - x.max(-1, keepdims=True)) * jax.lax.rsqrt(jnp.var(x, -1, keepdims=True) + 1e-5),
    "the variance alone": lambda x, r: jnp.sqrt(jnp.var(x, -1) + 1e-5),
    "unit length": lambda x, r: x * jax.lax.rsqrt((x * x).sum(-1, keepdims=True)),
    "batch norm": lambda x, r: (x - x.mean((0, 1))) * jax.lax.rsqrt(x.var((0, 1)) + 1e-5),
    "half of the mean": lambda x, r: (x - mean(x) / 2) * jax.lax.rsqrt(jnp.var(x, -1, keepdims=True) + 1e-5),
    "a mean over fewer": lambda x, r: (x - mean(x[..., :20])) * jax.lax.rsqrt(jnp.var(x, -1, keepdims=True) + 1e-5),
}


@pytest.mark.once
@pytest.mark.parametrize("name", OTHERS)
def test_what_is_no_norm_is_left_alone(name: str) -> None:
    module = raised(OTHERS[name], X, R)
    assert names(module) == []
    assert not remarks(module, "missed", "raise-layernorm")


@pytest.mark.parametrize("name", GROUPS)
def test_norms_over_other_axes(name: str) -> None:
    function, x, layout, weight = GROUPS[name]
    module = raised(function, x, C, D)
    assert names(module) == ["group_norm"]
    spec = spec_of(module)
    assert (str(spec.x), str(spec.weight), str(spec.bias)) == (layout, weight, weight)
    assert_attributes_hold(module)


@pytest.mark.once
def test_rows_of_nothing_have_no_mean() -> None:
    module = raised(lambda x: jnp.sqrt(jnp.sum(x * x, 1, keepdims=True)), jnp.zeros((2, 0, 4)))
    assert names(module) == []


@pytest.mark.once
def test_adaptive_norms_keep_their_modulation_outside() -> None:
    module = raised(lambda x, s, b: two_passes(x) * (1 + s[:, None]) + b[:, None], X, array(2, 40), array(2, 40))
    assert names(module) == ["layer_norm"]
    assert not spec_of(module).weight
    assert_attributes_hold(module)


@pytest.mark.once
def test_values_inside_that_are_used_elsewhere_stay() -> None:
    def function(x: jax.Array, r: jax.Array, w: jax.Array) -> Any:
        s = x + r
        n = two_passes(s)
        return n * w, n, mean(s)

    module = raised(function, X, R, W)
    assert names(module) == ["layer_norm"]
    assert not spec_of(module).residual
    for own, expected in zip(module.compile("cpu")(X, R, W), function(X, R, W), strict=True):
        np.testing.assert_allclose(own, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.once
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_kernels_of_what_was_raised_are_sound(dtype: str) -> None:
    function = jax.grad(loss_of(lambda x, r, w, b: narrow(x + r, w, b)), (0, 1, 2, 3))
    module = raised(function, X.astype(dtype), R.astype(dtype), W, B)
    certificates = certify_composites(module, target=zenith.Target.parse("cpu"))
    assert [certificate.note for certificate in certificates] == ["cpu-norm", "cpu-norm-vjp"]
    assert all(certificate.sound for certificate in certificates)


@pytest.mark.once
def test_without_gradients_only_norms_are_raised() -> None:
    spelling = SPELLINGS[0]
    numbers = tuple(range(len(spelling.arguments)))
    module = zenith.trace(jax.value_and_grad(loss_of(spelling.function), numbers), *spelling.arguments)
    assert names(module.run(RAISE)) == [spelling.op, f"{spelling.op}_vjp"]
    assert names(module.run(f"{RAISE}{{gradients=false}}")) == [spelling.op]
