"""raise-cross-entropy: every spelling of the loss and of its gradient, near misses with their remark, the numbers."""

from __future__ import annotations

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cross_entropy_programs import LOSSES, NEAR_MISSES, OTHERS, L, Program, V, X, integer
from raised import assert_attributes_hold, names, remarks, spec_of

import zenith_mlir as zenith
from zenith_mlir.certify import certify_composites

PASS = "raise-cross-entropy"
BOTH = ["cross_entropy", "cross_entropy_vjp"]


def name_of(program: Program) -> str:
    return program.name


def raised(program: Program, gradient: bool = True) -> zenith.Module:
    function = jax.value_and_grad(program.function) if gradient else program.function
    return zenith.trace(function, *program.arguments).run(f"prepare,{PASS}", target="none")


@pytest.mark.parametrize("program", LOSSES, ids=name_of)
def test_losses_and_their_gradients(program: Program) -> None:
    module = raised(program)
    assert names(module) == BOTH
    assert sorted(r.op for r in remarks(module, "passed", PASS)) == [f"zenith.{name}" for name in BOTH]
    assert not remarks(module, "missed", PASS)
    spec = spec_of(module)
    for name, value in program.facts.items():
        assert getattr(spec, name) == (value if isinstance(value, str) else pytest.approx(value))
    wide = "x".join(map(str, program.arguments[0].shape))
    main = module.text().split("func.func private")[0]
    assert not re.search(rf"stablehlo.exponential.*<{wide}x", main), "no softmax is left beside"


@pytest.mark.once
@pytest.mark.parametrize("program", LOSSES[::3], ids=name_of)
def test_what_attributes_say_is_computed(program: Program) -> None:
    assert_attributes_hold(raised(program), integers=V)


@pytest.mark.once
@pytest.mark.parametrize("program", NEAR_MISSES, ids=name_of)
def test_near_misses_get_one_remark(program: Program) -> None:
    for gradient in (False, True):
        module = raised(program, gradient)
        assert names(module) == []
        (remark,) = remarks(module, "missed", PASS)
        assert program.reason in remark.reason


@pytest.mark.once
@pytest.mark.parametrize("program", OTHERS, ids=name_of)
def test_what_is_no_cross_entropy_is_left_alone(program: Program) -> None:
    module = raised(program)
    assert "cross_entropy" not in names(module)
    assert not remarks(module, "passed", PASS)


@pytest.mark.once
def test_labels_outside_are_read_as_the_program_reads_them() -> None:
    labels = jnp.array([[0, -1, V, -V - 1, 3], [-100, 2**31 - 1, V - 1, -V, 1]], jnp.int32)
    for program in LOSSES:
        if program.name in ("integer labels", "one-hot", "nll", "lse minus one-hot", "smoothed"):
            module = zenith.trace(program.function, X, labels)
            lowered = module.run(f"prepare,{PASS},lower-kernels{{cost-model=false}}", target="cpu")
            assert "@zenith_cross_entropy" in lowered.text()
            for own, expected in zip(lowered.compile("cpu")(X, labels), module.compile("cpu")(X, labels), strict=True):
                np.testing.assert_allclose(own, expected, rtol=1e-5)


@pytest.mark.once
def test_a_loss_under_checkpoint_is_one_site() -> None:
    def loss(x: jax.Array, y: jax.Array) -> jax.Array:
        return jax.checkpoint(lambda x: (integer(x, y) ** 2).mean())(x)

    module = zenith.trace(jax.value_and_grad(loss), X, L).run(f"prepare,{PASS}", target="none")
    passed = [remark.op for remark in remarks(module, "passed", PASS)]
    assert sorted(passed) == [f"zenith.{name}" for name in BOTH]
    assert_attributes_hold(module, integers=V)


@pytest.mark.once
def test_a_z_loss_beside_is_part_of_the_gradient() -> None:
    def apart(x: jax.Array, y: jax.Array) -> jax.Array:
        return integer(x, y).mean() + 1e-3 * (jax.nn.logsumexp(x, axis=-1) ** 2).mean()

    module = zenith.trace(jax.value_and_grad(apart), X, L).run(f"prepare,{PASS}", target="none")
    assert (spec_of(module, 0).z_loss, spec_of(module, 1).z_loss) == (0.0, pytest.approx(1e-3))


@pytest.mark.once
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_kernels_of_what_was_raised_are_sound(dtype: str) -> None:
    x, y = jnp.tile(X, (1, 8, 12)).astype(dtype), jnp.tile(L, (1, 8))
    module = zenith.trace(jax.value_and_grad(lambda x, y: integer(x.astype(jnp.float32), y).mean()), x, y)
    raised = module.run(f"prepare,{PASS}", target="none")
    (certificate,) = certify_composites(raised, target=zenith.Target.parse("cpu"))
    assert certificate.sound, certificate.summary
    assert certificate.note == "cpu-cross-entropy, cpu-cross-entropy-vjp"
