"""raise-activation: gradients are found beside their activations, whatever differentiation made of them."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from activation_programs import BF16, F32, FORMS, RAISE, Function, array, check_attributes, missed, passed, raised

import zenith_mlir as zenith
from zenith_mlir.certify import certify_pair

LOWER = "prepare,raise-activation,lower-kernels{cost-model=false}"
X, W, V, B = array(3, 8), array(8, 6, seed=1), array(6, 4, seed=2), array(6, seed=3)


def training(function: Function) -> Function:
    """Value and gradients of a loss of a dense layer, `function` and another."""

    def loss(x: jax.Array, w: jax.Array, b: jax.Array, v: jax.Array) -> jax.Array:
        return jnp.square((function(x @ w + b) @ v).astype(F32)).sum()

    return jax.value_and_grad(loss, argnums=(0, 1, 2, 3))


def ops(module: zenith.Module) -> list[str]:
    return sorted(op for op, _ in passed(module))


SPELLINGS = [*((name, F32) for name in FORMS), *((name, BF16) for name in list(FORMS)[::5])]


@pytest.mark.parametrize(("name", "dtype"), SPELLINGS, ids=[f"{name}, {dtype.__name__}" for name, dtype in SPELLINGS])
def test_every_spelling(name: str, dtype: Any) -> None:
    kind, _, function = FORMS[name]
    module = raised(training(function), *(x.astype(dtype) for x in (X, W, B, V)))
    forward = "zenith.silu" if kind == "silu" else "zenith.gelu"
    assert ops(module) == [forward, f"{forward}_vjp"] and missed(module) == []
    for _, facts in passed(module):
        assert facts["activation"] == kind and facts["bias"] and not facts["escapes"]
    assert not any(op in _main(module) for op in ("exponential", "stablehlo.tanh", "logistic", "chlo.")), (
        "nothing is left over"
    )


def _main(module: zenith.Module) -> str:
    return module.text().split("func.func private")[0]


@pytest.mark.parametrize("name", ["jax.nn.gelu exact", "jax.nn.gelu tanh", "jax.nn.silu", "quick gelu", "tanh, power"])
def test_attributes_describe_the_decompositions(name: str) -> None:
    assert check_attributes(raised(training(FORMS[name][2]), X, W, B, V)) == 2


def _halves(order: int) -> Function:
    def gate(x: jax.Array, act: Function) -> jax.Array:
        halves = jnp.split(x, 2, axis=-1)
        return act(halves[order]) * halves[1 - order]

    return gate


GATES: dict[str, tuple[Function, dict[str, Any]]] = {
    "first half": (_halves(0), {"halves": "gate_first", "bias": True}),
    "last half": (_halves(1), {"halves": "gate_last", "bias": True}),
    "sliced": (lambda x, act: act(x[:, :3]) * x[:, 3:], {"halves": "gate_first"}),
    "up first": (lambda x, act: x[:, 3:] * act(x[:, :3]), {"halves": "gate_first"}),
    "two tensors": (lambda x, act: act(x @ W[:6, :3]) * (x @ W[:6, 3:]), {"halves": "none", "bias": False}),
    "two biases": (lambda x, act: act(x @ W[:6, :3] + B[:3]) * (x @ W[:6, 3:] + B[3:]), {"bias": True}),
}


@pytest.mark.parametrize("name", GATES)
def test_gates(name: str) -> None:
    gate, expected = GATES[name]
    module = raised(training(lambda x: gate(x, jax.nn.silu)), X, W, B, V[:3])
    assert ops(module) == ["zenith.swiglu", "zenith.swiglu_vjp"]
    for _, facts in passed(module):
        assert {fact: facts[fact] for fact in expected} == expected and not facts["escapes"]
    assert check_attributes(module) == 2


def test_a_gate_made_of_gelu() -> None:
    module = raised(training(lambda x: _halves(0)(x, jax.nn.gelu)), X, W, B, V[:3])
    assert ops(module) == ["zenith.gelu", "zenith.gelu_vjp"]
    assert 'composite "zenith.swiglu_vjp"' in module.text() and check_attributes(module) == 2


def test_a_gate_with_a_constant_other_half() -> None:
    """What multiplies both the activation and the gradient is the other half, not the cotangent."""
    module = raised(training(lambda x: jax.nn.silu(x) * X[:, :6]), X, W, B, V)
    assert sorted(op.removesuffix("_vjp") for op, _ in passed(module)) in (["zenith.silu"] * 2, ["zenith.swiglu"] * 2)
    assert check_attributes(module) == 2


def test_a_backward_without_its_forward() -> None:
    def backward(x: jax.Array, up: jax.Array, g: jax.Array) -> Any:
        return jax.vjp(lambda x, up: jax.nn.silu(x) * up, x, up)[1](g)

    module = raised(backward, X, X + 1, X - 1)
    assert ops(module) == ["zenith.swiglu_vjp"] and check_attributes(module) == 1


def test_a_scale_behind_the_activation_is_no_part_of_it() -> None:
    module = raised(training(lambda x: jax.nn.gelu(x) * 1.7), X, W, B, V)
    assert ops(module) == ["zenith.gelu", "zenith.gelu_vjp"] and check_attributes(module) == 2


def test_dropout_behind_the_activation_is_no_gate() -> None:
    keep = jnp.arange(6) % 2 == 0
    module = raised(training(lambda x: jnp.where(keep, jax.nn.silu(x) / 0.5, 0)), X, W, B, V)
    assert ops(module) == ["zenith.silu", "zenith.silu_vjp"] and check_attributes(module) == 2


def test_a_gradient_that_is_not_found_leaves_the_forward_to_xla() -> None:
    def loss(x: jax.Array) -> jax.Array:
        return jax.nn.silu(x).sum()  # the cotangent is no tensor

    module = raised(jax.value_and_grad(loss), X)
    ((op, facts),) = passed(module)
    assert op == "zenith.silu" and facts["escapes"]


def test_a_second_derivative_keeps_its_numbers() -> None:
    def loss(x: jax.Array) -> jax.Array:
        return jnp.square(jax.nn.silu(x)).sum()

    original = zenith.trace(jax.hessian(loss), X[0])
    certificate = certify_pair(original, original.run(LOWER, target="cpu"), inputs=[("its own", [np.asarray(X[0])])])
    assert certificate.sound, certificate.summary


@pytest.mark.parametrize("name", ["jax.nn.gelu exact", "jax.nn.gelu tanh", "jax.nn.silu", "gate"])
def test_a_scan_over_layers(name: str) -> None:
    act = jax.nn.silu if name == "gate" else FORMS[name][2]

    def layer(x: jax.Array, weights: Any) -> tuple[jax.Array, None]:
        w, b, v = weights
        y = x @ w + b
        return x + (act(y) * (x @ w if name == "gate" else 1)) @ v, None

    def loss(x: jax.Array, *weights: jax.Array) -> jax.Array:
        return jnp.square(jax.lax.scan(layer, x, weights)[0]).sum()

    arguments = X, array(2, 8, 6), array(2, 6), array(2, 6, 8)
    original = zenith.trace(jax.value_and_grad(loss, argnums=(0, 1, 2, 3)), *arguments)
    module = original.run(RAISE, target="none")
    forward = "zenith.gelu" if "gelu" in name else "zenith.silu"
    assert ops(module) == [forward, f"{forward}_vjp"]
    assert not any(facts["escapes"] for _, facts in passed(module))
    lowered = original.run(LOWER, target="cpu")
    assert lowered.text().count("custom_call @zenith") == 2
    certificate = certify_pair(original, lowered, inputs=[("its own", [np.asarray(x) for x in arguments])])
    assert certificate.sound, certificate.summary


@pytest.mark.parametrize("scanned", [False, True], ids=["unrolled", "scan"])
def test_checkpointed_layers_have_one_site_each(scanned: bool) -> None:
    def layer(x: jax.Array, weights: Any) -> tuple[jax.Array, None]:
        w, b, v = weights
        return x + jax.nn.gelu(x @ w + b) @ v, None

    def loss(x: jax.Array, *weights: jax.Array) -> jax.Array:
        if scanned:
            x, _ = jax.lax.scan(jax.checkpoint(layer), x, weights)
        else:
            for i in range(2):
                x, _ = jax.checkpoint(layer)(x, [w[i] for w in weights])
        return jnp.square(x).sum()

    arguments = X, array(2, 8, 6), array(2, 6), array(2, 6, 8)
    module = raised(jax.grad(loss, argnums=(0, 1, 2, 3)), *arguments)
    layers = 1 if scanned else 2
    assert ops(module) == ["zenith.gelu"] * layers + ["zenith.gelu_vjp"] * layers
    again = [r.reason for r in module.remarks if r.kind == "analysis"]
    assert again == ["computed a second time, for the gradient, as jax.checkpoint asks"] * layers


@pytest.mark.parametrize("dtype", [F32, BF16], ids=["float32", "bfloat16"])
def test_kernels_compute_the_same(dtype: Any) -> None:
    def layer(x: jax.Array) -> jax.Array:
        return _halves(0)(jax.nn.gelu(x, approximate=False), jax.nn.silu)

    arguments = [x.astype(dtype) for x in (X, W, B, V[:3])]
    original = zenith.trace(training(layer), *arguments)
    lowered = original.run(LOWER, target="cpu")
    assert lowered.text().count("custom_call @zenith") == 4
    certificate = certify_pair(original, lowered, inputs=[("its own", [np.asarray(x) for x in arguments])])
    assert certificate.sound, certificate.summary
