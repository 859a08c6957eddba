"""raise-softmax: spellings of softmax, log-softmax and their gradients, near misses with their remark, the numbers."""

from __future__ import annotations

import re

import jax
import jax.numpy as jnp
import pytest
from cross_entropy_programs import Program, X, integer
from raised import assert_attributes_hold, names, remarks, spec_of
from softmax_programs import NEAR_MISSES, SOFTMAXES, G

import zenith_mlir as zenith
from zenith_mlir.certify import certify_composites

PASS = "raise-softmax"


def name_of(program: Program) -> str:
    return program.name


def raised(program: Program) -> zenith.Module:
    return zenith.trace(jax.value_and_grad(program.function), *program.arguments).run(f"prepare,{PASS}", target="none")


@pytest.mark.parametrize("program", SOFTMAXES, ids=name_of)
def test_softmaxes_and_their_gradients(program: Program) -> None:
    module = raised(program)
    found = names(module)
    assert sum(name.endswith("_vjp") for name in found) == 1
    assert found[-1].removesuffix("_vjp") in found
    assert not remarks(module, "missed", PASS)
    scale = spec_of(module).scale * spec_of(module, -1).scale
    assert scale == pytest.approx(program.facts.get("scale", 1.0)), "the gradient of the scale is outside, or within"
    assert not re.search(r"stablehlo.(exponential|log)\b", module.text().split("func.func private")[0])


@pytest.mark.once
@pytest.mark.parametrize("program", SOFTMAXES[:7], ids=name_of)
def test_what_attributes_say_is_computed(program: Program) -> None:
    assert_attributes_hold(raised(program))


@pytest.mark.once
@pytest.mark.parametrize("program", NEAR_MISSES, ids=name_of)
def test_near_misses_get_one_remark(program: Program) -> None:
    module = raised(program)
    assert names(module) == []
    (remark,) = remarks(module, "missed", PASS)
    assert program.reason in remark.reason


@pytest.mark.once
def test_a_loss_keeps_its_log_softmax() -> None:
    labels = jnp.zeros(X.shape[:-1], jnp.int32)
    module = zenith.trace(jax.grad(lambda x: integer(x, labels).sum()), X).run("default", target="none")
    assert not remarks(module, "passed", PASS)


@pytest.mark.once
def test_probabilities_that_attention_leaves_behind_are_not_computed_twice() -> None:
    def attend(q: jax.Array, k: jax.Array, v: jax.Array) -> tuple[jax.Array, jax.Array]:
        p = jax.nn.softmax(q @ k.swapaxes(1, 2))
        return p @ v, p

    module = zenith.trace(attend, X, X, G).run(f"prepare,raise-attention,{PASS}", target="none")
    assert names(module) == ["attention"]


@pytest.mark.once
def test_kernels_of_what_was_raised_are_sound() -> None:
    x, g = jnp.tile(X, (1, 40, 12)), jnp.tile(G, (1, 40, 12))
    module = zenith.trace(jax.value_and_grad(lambda x, g: (jax.nn.log_softmax(x) * g).sum()), x, g)
    for certificate in certify_composites(module.run(f"prepare,{PASS}", target="none"), zenith.Target.parse("cpu")):
        assert certificate.sound, certificate.summary
