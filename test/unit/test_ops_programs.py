"""zenith.ops in programs: the kernels that a pipeline gives them, shardings, jax.export, a block beside a plain one."""

from __future__ import annotations

import dataclasses
import functools
import os
import subprocess
import sys
import textwrap
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import ops_transformer as block
import pytest
from jax import export
from ops_cases import CASES, Case, X, little_optimised, ops

import zenith_mlir as zenith
from zenith_mlir.dialects.attributes import from_attribute
from zenith_mlir.dialects.table import OPS
from zenith_mlir.ir.composites import composite_attributes, composite_name, zenith_composites
from zenith_mlir.pipeline import PIPELINES

RAISING = PIPELINES["default"].removesuffix(",lower-kernels")
KERNELS = f"{RAISING},lower-kernels{{cost-model=false}}"


@pytest.fixture(autouse=True)
def _little_optimised() -> Iterator[None]:
    with little_optimised():
        yield


def narrow(x: Any, dtype: Any = np.float32) -> Any:
    return x.astype(dtype) if x.dtype == np.float64 else x


def loss(case: Case) -> Any:
    def of(*operands: Any) -> Any:
        return sum(jnp.sin(leaf.astype(jnp.float32)).sum() for leaf in jax.tree.leaves(case.call(*operands)))

    return of


@pytest.mark.once
def test_kernels_take_every_op_and_gradient() -> None:
    """Alone and under vmap over every operand."""
    cases = [case for case in CASES if case.op != "matmul"]
    operands = [[narrow(x) for x in case.operands] for case in cases]
    wide = [[np.stack([x, x[::-1]]) for x in given] for given in operands]

    def everything() -> Any:
        for case, given, mapped in zip(cases, operands, wide, strict=True):
            gradient = jax.value_and_grad(loss(case), case.moving)
            yield gradient(*given)
            if case.op == "attention":
                yield jax.vmap(gradient)(*mapped)

    def run() -> Any:
        return list(everything())

    wanted = jax.jit(run)()
    with zenith.pipeline(KERNELS, strict=True) as p:
        found = jax.jit(lambda: run())()
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-5, atol=2e-6), found, wanted)
    assert {remark.kind for remark in p.remarks} == {"passed"}
    names = {f"zenith.{case.op}{end}" for case in cases for end in ("", "_vjp")}
    assert {remark.op for remark in p.remarks} == names
    assert Counter(remark.op for remark in p.remarks)["zenith.attention_vjp"] == 2


@pytest.mark.once
def test_products_of_bfloat16_and_their_gradients_are_kernels() -> None:
    for case in (case for case in CASES if case.op == "matmul"):
        operands = [jnp.asarray(x, jnp.bfloat16) for x in case.operands]
        wanted = jax.value_and_grad(loss(case), case.moving)(*operands)
        with zenith.pipeline(KERNELS, strict=True) as p:
            found = jax.jit(jax.value_and_grad(loss(case), case.moving))(*operands)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=5e-2, atol=5e-2), found, wanted)
        assert [remark.kind for remark in p.remarks if remark.op == "zenith.matmul"] == ["passed"] * 3


@pytest.mark.once
def test_remarks_name_the_line_of_the_caller() -> None:
    x = narrow(X)
    with zenith.pipeline(KERNELS) as p:
        jax.jit(lambda x: ops.gelu(x))(x)
    (remark,) = p.remarks
    assert Path(remark.file).name == Path(__file__).name


def test_outside_of_jit_a_pipeline_sees_the_op() -> None:
    with zenith.pipeline(KERNELS) as p:
        ops.softmax(narrow(X))
    assert [remark.op for remark in p.remarks] == ["zenith.softmax"]
    with jax.disable_jit():
        np.testing.assert_allclose(ops.softmax(narrow(X)), jax.nn.softmax(narrow(X)), rtol=1e-6)


# ---- A block of ops beside the same in plain JAX ----

FEATURES, CLASSES, LENGTH = 16, 11, 8


def inputs(dtype: Any) -> tuple[Any, ...]:
    x = np.random.default_rng(0).normal(size=(2, LENGTH, FEATURES))
    labels = np.random.default_rng(1).integers(0, CLASSES, (2, LENGTH))
    return block.parameters(FEATURES, CLASSES, dtype), jnp.asarray(x, dtype), labels


def test_a_block_has_the_numbers_of_a_plain_one() -> None:
    """Under jit, and exported: then kernels are chosen where it is called. The plain one in float64 is the judge."""
    given = inputs(jnp.float32)
    with jax.enable_x64(True):
        exact = jax.tree.map(lambda x: x.astype(np.float64), given[:2])
        judge = jax.tree.map(np.asarray, jax.jit(block.step(block.plain))(*exact, given[2]))

    def check(found: Any) -> None:
        for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(judge), strict=True):
            assert np.abs(np.asarray(a, np.float64) - b).max() < 3e-6 * np.abs(b).max()

    check(jax.jit(block.step(block.with_ops))(*given))
    with zenith.pipeline("default"):
        exported = export.export(jax.jit(block.step(block.with_ops)))(*given)
    again = export.deserialize(exported.serialize())
    assert "zenith.attention_vjp" in again.mlir_module()
    assert "custom_call @zenith" not in again.mlir_module()
    with zenith.pipeline(KERNELS, strict=True) as kernels:
        check(jax.jit(again.call)(*given))
    assert "zenith.attention_vjp" in {remark.op for remark in kernels.remarks if remark.kind == "passed"}


@functools.cache
def raised(function: Any, dtype: Any = jnp.float32) -> list[tuple[str, Any]]:
    """Name and spec of the composites of `function` once everything is raised, sorted by name."""
    module = zenith.trace(block.step(function), *inputs(dtype)).run(RAISING)
    found = []
    for composite in zenith_composites(module.operation):
        name = composite_name(composite)
        found.append((name, OPS[name].read(from_attribute(composite_attributes(composite)))))
    return sorted(found, key=lambda item: item[0])


def facts_of_attention(spec: Any) -> Any:
    """What is true of an attention however it is written. The fill of masked logits is a choice."""
    steps = [(step.kind, step.low, step.high) for step in spec.steps]
    return spec.axes, round(spec.scale, 6), spec.is_causal, steps, spec.residuals


# What is found in the plain block, and how its attributes are compared with those that the ops write. The gradient of
# the first norm is that of its weight alone, which is no op in a program.
FOUND = {
    "zenith.cross_entropy": lambda spec: (spec.smoothing, spec.z_loss, spec.outside),
    "zenith.cross_entropy_vjp": lambda spec: (spec.smoothing, spec.z_loss, spec.outside),
    "zenith.rms_norm": lambda spec: dataclasses.replace(spec, epsilon=round(spec.epsilon, 12)),
    "zenith.rotary": lambda spec: (spec.axes, spec.x, spec.table.axes, spec.rotated, spec.pairing, spec.out),
    "zenith.rotary_vjp": lambda spec: (spec.axes, spec.x, spec.table.axes, spec.rotated, spec.pairing, spec.out),
    "zenith.swiglu": lambda spec: spec,
    "zenith.swiglu_vjp": lambda spec: spec,
    "zenith.attention": facts_of_attention,
    "zenith.attention_vjp": lambda spec: (
        facts_of_attention(spec.attention),
        sorted((gradient.role, gradient.factor) for gradient in spec.gradients),
    ),
}


@pytest.mark.once
@pytest.mark.parametrize("op", FOUND)
def test_a_block_has_the_composites_that_are_found_in_a_plain_one(op: str) -> None:
    ours, found = ([FOUND[op](spec) for name, spec in raised(f) if name == op] for f in (block.with_ops, block.plain))
    assert ours == found != []


@pytest.mark.once
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_ops_are_left_alone_by_what_raises(dtype: Any) -> None:
    """Also the products inside of them."""
    traced = zenith.trace(block.step(block.with_ops), *inputs(dtype))
    before = Counter(composite_name(op) for op in zenith_composites(traced.run("prepare").operation))
    assert Counter(name for name, _ in raised(block.with_ops, dtype)) == before
    assert before["zenith.attention"] == before["zenith.cross_entropy_vjp"] == 1
    assert before["zenith.rms_norm"] == before["zenith.rotary_vjp"] == 2


@pytest.mark.once
def test_example_runs(capsys: pytest.CaptureFixture[str]) -> None:
    block.main()
    assert "passed zenith.rms_norm cpu-norm" in capsys.readouterr().out


def test_symbolic_sizes_leave_the_formula() -> None:
    shape = jax.ShapeDtypeStruct(export.symbolic_shape("b, 4"), np.float32)
    exported = export.export(jax.jit(lambda x: ops.matmul(ops.softmax(x), x.T)))(shape)
    x = narrow(X)
    np.testing.assert_allclose(exported.call(x), jax.nn.softmax(x) @ x.T, rtol=1e-5)


# ---- Several devices ----


def attend(p: dict[str, jax.Array], x: jax.Array, labels: jax.Array) -> jax.Array:
    """A model of few operations."""
    heads = ops.matmul(ops.rms_norm(x, p["norm"]), p["in"]).reshape(*x.shape[:2], 2, -1)
    attended = ops.attention(heads, heads, heads, is_causal=True).reshape(x.shape)
    return ops.cross_entropy(ops.matmul(attended, p["out"], residual=x), labels).mean()


def test_shardings() -> None:
    """Data-parallel by sharded jit, by shard_map and with explicit axes: nothing is gathered, gradients of replicated
    weights are summed, and inside of shard_map kernels are used.
    """
    run_on_four_devices("""
        draw = np.random.default_rng(0).normal
        p = {"norm": (16,), "in": (16, 16), "out": (16, 16)}
        p = {name: jnp.asarray(draw(size=shape), jnp.float32) for name, shape in p.items()}
        x, labels = draw(size=(4, 8, 16)).astype("float32"), np.arange(32).reshape(4, 8) % 16
        step = jax.value_and_grad(attend)
        wanted = jax.jit(step)(p, x, labels)
        mesh = jax.make_mesh((4,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
        sharded = [jax.device_put(value, jax.NamedSharding(mesh, P("data"))) for value in (x, labels)]

        def same(found):
            jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), found, wanted)

        compiled = jax.jit(step).lower(p, *sharded).compile()
        assert "all-gather" not in compiled.as_text()
        same(compiled(p, *sharded))

        def mapped(p, x, labels):
            return jax.value_and_grad(lambda *a: jax.lax.pmean(attend(*a), "data"))(p, x, labels)

        specs = (P(), P("data"), P("data"))
        with zenith.pipeline(KERNELS, strict=True) as kernels:
            same(jax.jit(jax.shard_map(mapped, mesh=mesh, in_specs=specs, out_specs=P()))(p, *sharded))
        assert "zenith.attention_vjp" in {r.op for r in kernels.remarks if r.kind == "passed"}, kernels.remarks

        explicit = jax.make_mesh((4,), ("data",), axis_types=(jax.sharding.AxisType.Explicit,))
        with jax.set_mesh(explicit):
            same(jax.jit(step)(p, *[jax.device_put(value, P("data")) for value in (x, labels)]))
    """)


def run_on_four_devices(program: str) -> None:
    root = Path(__file__).parents[2]
    given = "import jax, jax.numpy as jnp, numpy as np\nfrom jax.sharding import PartitionSpec as P\n"
    given += "from test_ops_programs import *\nfrom test_ops_programs import attend, zenith\n"
    paths = [str(Path(__file__).parent), str(root / "test"), str(root / "examples"), str(root)]
    flags = f"{os.environ['XLA_FLAGS']} --xla_force_host_platform_device_count=4"
    environment = {"PYTHONPATH": os.pathsep.join(paths), "XLA_FLAGS": flags, "JAX_DISABLE_MOST_OPTIMIZATIONS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", given + textwrap.dedent(program)],
        env=os.environ | environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
