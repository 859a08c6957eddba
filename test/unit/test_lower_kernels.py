"""lower-kernels: every raised program computes the same with the kernel, and every refusal has its reason."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from attention_programs import RAISED, Program, array, attend, btnh, scores

import zenith_mlir as zenith
from zenith_mlir.certify import certify_composites, certify_pair

pytestmark = pytest.mark.once  # that raising works on every version is tested where it is done

FUSE = "fuse-attention{min-seq=0}"
FUSED = [program for program in RAISED if not program.facts.get("escapes")]


def fused(program: Program, pipeline: str = FUSE) -> tuple[zenith.Module, zenith.Module]:
    original = zenith.trace(program.function, *program.arguments)
    return original, original.run(pipeline, target="cpu")


def reasons(module: zenith.Module) -> list[str]:
    return [r.reason for r in module.remarks if r.pass_name == "lower-kernels" and r.kind == "missed"]


@pytest.mark.parametrize("program", FUSED, ids=lambda program: program.name)
def test_the_kernel_is_sound_on_the_programs_own_inputs(program: Program) -> None:
    original, rewritten = fused(program)
    assert rewritten.text().count("custom_call @zenith_attention") == 1, reasons(rewritten)
    assert "stablehlo.exponential" not in rewritten.text()
    arrays = [np.asarray(x) for x in jax.tree.leaves(program.arguments)]
    certificate = certify_pair(original, rewritten, inputs=[("its own", arrays)])
    assert certificate.sound, certificate.summary


@pytest.mark.parametrize(
    "name", ["causal and padding", "mask, -inf", "mask, then bias", "soft cap", "grouped by reshape"]
)
def test_certificates_hold_on_adversarial_inputs(name: str) -> None:
    (program,) = (p for p in RAISED if p.name == name)
    raised = zenith.trace(program.function, *program.arguments).run("prepare,raise-attention", target="cpu")
    (certificate,) = certify_composites(raised, target=zenith.Target.parse("cpu"))
    assert certificate.sound, certificate.summary
    assert "cpu-flash" in certificate.note


def test_the_policy_exact_allows_no_kernel() -> None:
    module = zenith.trace(FUSED[0].function, *FUSED[0].arguments).run(FUSE, target="cpu", numerics="exact")
    assert reasons(module) == ["cpu-flash changes more than numerics=exact allows"]
    assert "zenith" not in module.text()


def test_sequences_below_min_seq_are_left_to_xla() -> None:
    _, module = fused(FUSED[0], "fuse-attention{min-seq=32}")
    assert reasons(module) == ["sequence 5 x 7 is below min-seq=32"]
    assert "zenith" not in module.text()


def test_escaping_probabilities_are_left_to_xla() -> None:
    (program,) = (p for p in RAISED if p.facts.get("escapes"))
    _, module = fused(program)
    assert len(reasons(module)) == 1 and "used elsewhere" in reasons(module)[0]
    assert "zenith" not in module.text()


def test_float64_is_left_to_xla() -> None:
    with jax.enable_x64(True):
        wide = [x.astype(jnp.float64) for x in btnh()]
        module = zenith.trace(lambda q, k, v: attend(scores(q, k), v), *wide).run(FUSE, target="cpu")
    assert reasons(module) == ["the CPU kernel takes float32, bfloat16, float16, not float64"]


def test_the_target_none_keeps_composites() -> None:
    original = zenith.trace(FUSED[0].function, *FUSED[0].arguments)
    assert "zenith.attention" in original.run(FUSE, target="none").text()


def test_partitioned_programs_are_left_to_xla() -> None:
    text = (
        zenith.trace(FUSED[0].function, *FUSED[0].arguments).text().replace("num_partitions = 1", "num_partitions = 4")
    )
    module = zenith.Module.parse(text).run(FUSE, target="cpu")
    assert reasons(module) == ["the program is partitioned over 4 devices"]


def test_one_implementation_serves_equal_layers() -> None:
    def two_layers(q: jax.Array, k: jax.Array, v: jax.Array) -> jax.Array:
        return attend(scores(attend(scores(q, k), v), k), v)

    x = [array(2, 5, 3, 4, seed=i) for i in range(3)]
    module = zenith.trace(two_layers, *x).run(FUSE, target="cpu")
    assert module.text().count("custom_call @zenith_attention") == 2
    assert "func.func private" not in module.text()


def test_spliced_kernels_carry_the_users_lines() -> None:
    _, module = fused(FUSED[0])
    lines = [line for line in module.text(debug_info=True).splitlines() if "attention_programs.py" in line]
    assert lines and "attention_implementation.py" not in module.text(debug_info=True)
