"""raise-attention: what it finds in programs as people write them, what it refuses, and that its attributes tell the
truth.
"""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from attention_programs import RAISED, REFUSED, UNRELATED, Program

import zenith_mlir as zenith
from zenith_mlir.dialects.attention import AttentionSpec, reference
from zenith_mlir.dialects.attributes import from_attribute
from zenith_mlir.ir.composites import composite_attributes, zenith_composites
from zenith_mlir.ir.executable import compile_module
from zenith_mlir.ir.float64 import to_float64


def name_of(program: Program) -> str:
    return program.name


def raised(program: Program) -> zenith.Module:
    return zenith.trace(program.function, *program.arguments).run("prepare,raise-attention", target="cpu")


def spec_of(module: zenith.Module) -> AttentionSpec:
    (composite,) = zenith_composites(module.operation)
    return AttentionSpec.from_attributes(from_attribute(composite_attributes(composite)))


def attention_alone(module: zenith.Module) -> zenith.Module:
    """A module whose main is the decomposition of the one composite."""
    (composite,) = zenith_composites(module.operation)
    symbol = str(composite.attributes["decomposition"])
    functions = [op for op in module.body.operations if str(op.attributes["sym_name"]).strip('"') == symbol.lstrip("@")]
    text = str(functions[0]).replace(symbol + "(", "@main(").replace("private ", "")
    return zenith.Module.parse(text)


@pytest.mark.parametrize("program", RAISED, ids=name_of)
def test_raised_with_its_facts(program: Program) -> None:
    module = raised(program)
    passed = [r for r in module.remarks if r.kind == "passed"]
    assert [r.op for r in passed] == ["zenith.attention"], [r.text() for r in module.remarks]
    assert passed[0].pass_name == "raise-attention"
    spec = spec_of(module)
    facts = {"scale": spec.scale, "causal": spec.is_causal, "softcap": spec.softcap, "escapes": spec.escapes}
    for fact, expected in program.facts.items():
        assert facts[fact] == pytest.approx(expected), fact


@pytest.mark.parametrize("program", RAISED, ids=name_of)
def test_attributes_describe_the_decomposition(program: Program) -> None:
    """The formula that the attributes mean, in float64, against the code that was outlined."""
    module = raised(program)
    alone, spec = attention_alone(module), spec_of(module)
    rng = np.random.default_rng(0)
    operands = [
        rng.random(s.shape) < 0.7 if s.dtype == bool else rng.standard_normal(s.shape).astype(s.dtype)
        for s in alone.input_specs
    ]
    (computed,) = alone.compile("cpu")(*operands)
    with jax.enable_x64(True):
        expected = np.asarray(jax.jit(partial(reference, spec, dtype=jnp.float64))(*operands))
    narrowest = "bfloat16" if "bfloat16" in {x.dtype.name for x in (computed, *operands)} else "float32"
    tolerance = {"float32": 2e-6, "bfloat16": 3e-2}[narrowest]
    np.testing.assert_allclose(
        np.asarray(computed, np.float64), expected, rtol=0, atol=tolerance * max(1, np.abs(expected).max())
    )


MASKED = [p for p in RAISED if any(np.asarray(x).dtype.kind == "b" for x in p.arguments)]


@pytest.mark.once
@pytest.mark.parametrize("program", MASKED, ids=name_of)
def test_attributes_describe_rows_with_nothing_to_see(program: Program) -> None:
    """NaN where the program has NaN, and a number where it has one."""
    module = raised(program)
    alone, spec = attention_alone(module), spec_of(module)
    rng = np.random.default_rng(1)
    operands = [
        np.zeros(s.shape, bool) if s.dtype == bool else rng.standard_normal(s.shape).astype(s.dtype)
        for s in alone.input_specs
    ]
    wide = [x if x.dtype == bool else x.astype(np.float64) for x in operands]
    (computed,) = compile_module(to_float64(alone), "cpu")(*wide)
    with jax.enable_x64(True):
        expected = np.asarray(jax.jit(partial(reference, spec, dtype=jnp.float64))(*wide))
    np.testing.assert_allclose(np.asarray(computed, np.float64), expected, rtol=0, atol=1e-12)


@pytest.mark.once
@pytest.mark.parametrize("program", RAISED, ids=name_of)
def test_raise_and_expand_changes_no_bit(program: Program) -> None:
    original = zenith.trace(program.function, *program.arguments)
    prepared = original.run("prepare", target="cpu")
    expanded = prepared.run("raise-attention,expand-composites", target="cpu")
    assert "zenith" not in expanded.text()
    flat = jax.tree.leaves(program.arguments)
    for a, b in zip(prepared.compile("cpu")(*flat), expanded.compile("cpu")(*flat), strict=True):
        np.testing.assert_array_equal(np.asarray(a), np.asarray(b))


@pytest.mark.parametrize("program", REFUSED, ids=name_of)
def test_refused_with_one_reason(program: Program) -> None:
    module = raised(program)
    assert [r.kind for r in module.remarks] == ["missed"], [r.text() for r in module.remarks]
    assert program.reason in module.remarks[0].reason
    assert module.remarks[0].pass_name == "raise-attention"
    assert "zenith" not in module.text()


@pytest.mark.parametrize("program", UNRELATED, ids=name_of)
def test_unrelated_programs_are_left_alone(program: Program) -> None:
    module = raised(program)
    assert not module.remarks and "zenith" not in module.text()


def test_remarks_name_the_line_of_the_program() -> None:
    (program,) = (p for p in RAISED if p.name == "no scale")
    (remark,) = raised(program).remarks
    assert remark.file.endswith("attention_programs.py") and remark.line > 0


def test_a_scanned_site_counts_once() -> None:
    (program,) = (p for p in RAISED if p.name == "inside scan")
    assert len([r for r in raised(program).remarks if r.kind == "passed"]) == 1


def test_raising_twice_is_raising_once() -> None:
    module = raised(RAISED[0])
    again = module.run("raise-attention", target="cpu")
    assert again.remarks == module.remarks and again.text() == module.text()
