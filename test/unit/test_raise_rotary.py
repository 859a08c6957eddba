"""raise-rotary: what it finds in programs as people write them, forward and backward, what it refuses, and that its
attributes tell the truth.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from rotary_programs import ANGLES, NEAR_MISSES, RAISED, UNRELATED, Program, X, array, halves

import zenith_mlir as zenith
from zenith_mlir.certify.composites import isolated_composites
from zenith_mlir.dialects import rotary, rotary_vjp
from zenith_mlir.dialects.attributes import from_attribute
from zenith_mlir.dialects.rotary import RotarySpec
from zenith_mlir.ir.composites import composite_attributes, zenith_composites
from zenith_mlir.ir.executable import compile_module
from zenith_mlir.ir.float64 import to_float64

pytestmark = pytest.mark.once
REFERENCES = {"zenith.rotary": rotary.reference, "zenith.rotary_vjp": rotary_vjp.reference}


def name_of(program: Any) -> str:
    return program.name if isinstance(program, Program) else ""


def raised(function: Callable[..., Any], *arguments: Any) -> zenith.Module:
    return zenith.trace(function, *arguments).run("prepare,raise-rotary", target="cpu")


def gradient(program: Program) -> Callable[..., Any]:
    """Of a sum in which each element has a weight of its own."""

    def loss(x: Any, *rest: Any) -> Any:
        out = program.function(x, *rest).astype(jnp.float32)
        return (out * jnp.arange(out.size, dtype=jnp.float32).reshape(out.shape) * out).sum()

    return jax.grad(loss)


def specs(module: zenith.Module) -> list[RotarySpec]:
    composites = zenith_composites(module.operation)
    return [RotarySpec.from_attributes(from_attribute(composite_attributes(op))) for op in composites]


def check_attributes(module: zenith.Module) -> None:
    """The formulas that the attributes mean against the code that was outlined, both in float64."""
    for name, alone in isolated_composites(module):
        (spec,) = specs(alone)
        operands = [array(*s.shape, seed=i).astype(s.dtype) for i, s in enumerate(alone.input_specs)]
        with jax.enable_x64(True):
            wide = [np.asarray(x, np.float64) for x in operands]
            (computed,) = compile_module(to_float64(alone), "cpu")(*wide)
            expected = jax.jit(partial(REFERENCES[name], spec, dtype=jnp.float64))(*wide)
            np.testing.assert_allclose(np.asarray(computed, np.float64), expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("program", RAISED, ids=name_of)
def test_raised_with_its_facts(program: Program) -> None:
    module = raised(program.function, *program.arguments)
    assert [(r.kind, r.op) for r in module.remarks] == [("passed", "zenith.rotary")], [r.text() for r in module.remarks]
    (spec,) = specs(module)
    found = spec.pairing, spec.rotated, spec.axes["d"], str(spec.table)
    assert found == (program.pairing, program.rotated, program.features, program.table)


@pytest.mark.parametrize("program", RAISED, ids=name_of)
def test_gradients_are_raised_with_their_forwards_and_attributes_are_true(program: Program) -> None:
    module = raised(gradient(program), *program.arguments)
    found = sorted((r.kind, r.op) for r in module.remarks)
    assert found == [("passed", "zenith.rotary"), ("passed", "zenith.rotary_vjp")], [r.text() for r in module.remarks]
    assert {spec.axes["d"] for spec in specs(module)} == {program.features}
    check_attributes(module)


@pytest.mark.parametrize("scan", [False, True])
def test_a_rotation_repeated_under_checkpoint_is_no_second_site(scan: bool) -> None:
    def layer(x: Any, w: Any) -> tuple[Any, None]:
        return x + jnp.tanh(halves(x * w, ANGLES)) ** 2, None

    def loss(weights: Any, x: Any) -> Any:
        body = jax.checkpoint(layer)
        if scan:
            return jax.lax.scan(body, x, weights)[0].sum()
        for w in weights:
            x, _ = body(x, w)
        return x.sum()

    remarks = raised(jax.grad(loss), array(2, 8), X).remarks
    sites = 1 if scan else 2
    counts = {op: sum((r.kind, r.op) == ("passed", op) for r in remarks) for op in REFERENCES}
    assert counts == dict.fromkeys(REFERENCES, sites), [r.text() for r in remarks]
    assert any(r.kind == "analysis" for r in remarks) and not any(r.kind == "missed" for r in remarks)


@pytest.mark.parametrize(("program", "reason"), NEAR_MISSES, ids=name_of)
def test_near_misses_give_one_remark(program: Program, reason: str) -> None:
    (remark,) = raised(program.function, *program.arguments).remarks
    assert remark.kind == "missed" and reason in remark.reason


@pytest.mark.parametrize("program", UNRELATED, ids=name_of)
def test_other_programs_are_left_alone_in_silence(program: Program) -> None:
    module = raised(program.function, *program.arguments)
    assert module.remarks == [] and "zenith" not in module.text()


@pytest.mark.parametrize("seed", range(24))
def test_whatever_is_raised_of_perturbed_rotations_is_what_it_says(seed: int) -> None:
    """Signs, tables, halves and their order at random: most are no rotation, and what is raised has true attributes."""
    rng = np.random.default_rng(seed)
    perturbed = seed % 4 > 0

    def pick(right: Any, *wrong: Any) -> Any:
        options = [right, *wrong]
        return options[rng.integers(len(options))] if perturbed and rng.random() < 0.3 else right

    signs = [pick(1, -1), pick(-1, 1), pick(1, -1), pick(1, -1)]
    tables = [pick(i, 0, 1, 2) for i in (0, 1, 0, 1)]
    pieces = [pick(i, 0, 1) for i in (0, 1, 1, 0)]
    axis, exchanged, interleaved = int(rng.choice([-1, -1, -2])), pick(False, True), bool(rng.random() < 0.5)

    def function(x: Any, angles: Any) -> Any:
        table = [f(angles)[:, None, :] for f in (jnp.cos, jnp.sin, jnp.tanh)]
        halves = [x[..., ::2], x[..., 1::2]] if interleaved else jnp.split(x, 2, axis=-1)
        terms = [s * halves[p] * table[t] for s, t, p in zip(signs, tables, pieces, strict=True)]
        out = [terms[0] + terms[1], terms[2] + terms[3]]
        out = out[::-1] if exchanged else out
        if interleaved:
            return jnp.stack(out, axis=axis).reshape(x.shape)
        return jnp.concatenate(out, axis=-1)

    module = raised(function, X, ANGLES)
    right = (signs, tables, pieces, exchanged) == ([1, -1, 1, 1], [0, 1, 0, 1], [0, 1, 1, 0], False)
    if right and (axis == -1 or not interleaved):
        assert [r.kind for r in module.remarks] == ["passed"]
    assert len(module.remarks) <= 1
    check_attributes(module)


@pytest.mark.once
def test_scalars_cut_out_of_vectors_are_read() -> None:
    def unrolled(xs: jax.Array) -> jax.Array:
        return jax.lax.scan(lambda c, x: (c * 0.5 + x, c + x), jnp.zeros(()), xs, unroll=4)[1]

    module = zenith.trace(unrolled, jnp.ones(4)).run("prepare")
    assert module.run("raise-rotary").text() == module.text()
