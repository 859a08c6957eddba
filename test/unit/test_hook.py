"""The hook under plain jax.jit, with passes small enough that what they did shows in a number."""

from __future__ import annotations

import functools
import os
import subprocess
import sys
import threading
import warnings
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import export
from jax._src.interpreters import mlir as jax_mlir
from jaxlib.mlir import ir

from zenith_mlir import hook
from zenith_mlir.errors import PassError, PipelineError, TargetError, ZenithError
from zenith_mlir.instrument import Reproducer
from zenith_mlir.module import Module
from zenith_mlir.registry import Pass, option, register

ADD = "stablehlo.add"
SUBTRACT = "stablehlo.subtract"


def walk(op):
    found = []
    op.walk(lambda inner: (found.append(inner), ir.WalkResult.ADVANCE)[1])
    return found


def replace(op, name, **attributes):
    with ir.InsertionPoint(op), op.location:
        new = ir.Operation.create(name, results=[op.results[0].type], operands=list(op.operands), attributes=attributes)
    op.results[0].replace_all_uses_with(new.results[0])
    op.erase()


@register("test-swap")
@dataclass(frozen=True)
class Swap(Pass):
    """Every addition becomes another operation: wrong on purpose, so that results tell whether it ran."""

    to: str = option("subtract", "subtract or multiply")

    def run(self, module, ctx):
        for op in walk(module.operation):
            if op.name == ADD and op.parent.name != "stablehlo.all_reduce":
                ctx.passed(op, "test.swap", target=str(ctx.target))
                replace(op, f"stablehlo.{self.to}")


@register("test-raise")
@dataclass(frozen=True)
class Raise(Pass):
    """Ruins the module, then fails."""

    def run(self, module, ctx):
        next(op for op in walk(module.operation) if op.name == "func.return").erase()
        raise ValueError("boom")


@register("test-ruin")
@dataclass(frozen=True)
class Ruin(Pass):
    """Leaves a module that does not verify."""

    def run(self, module, ctx):
        next(op for op in walk(module.operation) if op.name == "func.return").erase()


@register("test-trace")
@dataclass(frozen=True)
class Trace(Pass):
    """Traces and lowers a JAX function, as lowering a kernel does."""

    def run(self, module, ctx):
        text = jax.jit(lambda x: x + 1).lower(jax.ShapeDtypeStruct((3,), "float32")).as_text()
        assert ADD in text
        ctx.count("traced")
        ctx.passed(module.operation, "test.trace")


@register("test-call")
@dataclass(frozen=True)
class Call(Pass):
    """Every addition becomes a custom call; a composite for the target none."""

    def run(self, module, ctx):
        if ctx.target.platform == "none":
            ctx.analysis(module.operation, "", "left portable")
            return
        for op in walk(module.operation):
            if op.name == ADD:
                replace(op, "stablehlo.custom_call", call_target_name=ir.StringAttr.get("zenith_test"))


@register("test-attention")
@dataclass(frozen=True)
class Attention(Pass):
    """Makes main(q f32[4,8], k f32[6,8], v f32[6,8]) one call of our kernel, without registering it."""

    def run(self, module, ctx):
        main = next(op for op in walk(module.operation) if op.name == "func.func")
        block = main.regions[0].blocks[0]
        if len(block.arguments) != 3:
            return
        rows = "array<i64: 8, 1>"
        config = ir.Attribute.parse(
            "{dims = array<i64>, sizes = array<i64: 4, 6, 8, 8>, mod_strides = array<i64>, "
            f"q_strides = {rows}, k_strides = {rows}, v_strides = {rows}, out_strides = {rows}, "
            "steps_op = array<i64>, steps_f = array<f32>}"
        )
        end = block.operations[len(block.operations) - 1]
        with ir.InsertionPoint(end), end.location:
            call = ir.Operation.create(
                "stablehlo.custom_call",
                results=[end.operands[0].type],
                operands=list(block.arguments),
                attributes={
                    "call_target_name": ir.StringAttr.get("zenith_attention"),
                    "api_version": ir.IntegerAttr.get(ir.IntegerType.get_signless(32), 4),
                    "backend_config": config,
                },
            )
        end.operands[0] = call.results[0]


@pytest.fixture(autouse=True)
def nothing_left_bound():
    yield
    assert hook._bound.value is None
    hook.set_pipeline(None)


def plus(x):
    return x + np.float32(2)


def fresh():
    """A function JAX has not seen: it caches what it lowers by function, not by jax.jit object."""
    return lambda x: x + np.float32(2)


FIVE = np.float32(5)


# ---- Caches ----


def test_one_function_outside_inside_outside():
    f = jax.jit(fresh())
    assert f(FIVE) == 7
    with hook.pipeline("test-swap"):
        assert f(FIVE) == 3
        assert f(FIVE) == 3
    assert f(FIVE) == 7


def test_one_function_under_two_pipelines_and_options():
    f = jax.jit(fresh())
    for _ in range(2):
        with hook.pipeline("test-swap"):
            assert f(FIVE) == 3
        with hook.pipeline("test-swap{to=multiply}"):
            assert f(FIVE) == 10


def test_each_pipeline_lowers_once():
    lowerings = []
    f = jax.jit(lambda x: (lowerings.append(1), plus(x))[1])
    for _ in range(3):
        f(FIVE)
        with hook.pipeline("test-swap"):
            f(FIVE)
        with hook.pipeline("test-swap{to=subtract}"):  # the same, written out
            f(FIVE)
    assert len(lowerings) == 2


def test_target_and_numerics_are_part_of_the_key():
    f = jax.jit(fresh())
    with hook.pipeline("test-swap", target="cpu:avx2") as first:
        f(FIVE)
    with hook.pipeline("test-swap", target="cpu:avx512") as second:
        f(FIVE)
    with hook.pipeline("test-swap", target="cpu:avx2", numerics="exact") as third:
        f(FIVE)
    targets = [p.remarks[0].args["target"] for p in (first, second, third)]
    assert targets == ["cpu:avx2", "cpu:avx512", "cpu:avx2"]


def test_nesting_and_switching_off():
    f = jax.jit(fresh())
    with hook.pipeline("test-swap"):
        assert f(FIVE) == 3
        with hook.pipeline("test-swap{to=multiply}"):
            assert f(FIVE) == 10
            with hook.pipeline(None):
                assert f(FIVE) == 7
            with hook.pipeline(""):
                assert f(FIVE) == 7
            assert f(FIVE) == 10
        assert f(FIVE) == 3


def test_one_object_entered_again():
    p = hook.pipeline("test-swap")
    for _ in range(2):
        with p, p:
            assert jax.jit(fresh())(FIVE) == 3
    assert hook._bound.value is None


def test_left_by_an_exception():
    with pytest.raises(KeyError), hook.pipeline("test-swap"):
        raise KeyError
    assert jax.jit(fresh())(FIVE) == 7


def test_set_pipeline_for_the_process():
    f = jax.jit(fresh())
    p = hook.set_pipeline("test-swap")
    try:
        assert f(FIVE) == 3
        with ThreadPoolExecutor(1) as pool:
            assert pool.submit(f, FIVE).result() == 3
        with hook.pipeline(None):
            assert f(FIVE) == 7
        with hook.pipeline("test-swap{to=multiply}"):
            assert f(FIVE) == 10
        hook.set_pipeline("test-swap{to=multiply}")
        assert f(FIVE) == 10
    finally:
        hook.set_pipeline(None)
    assert f(FIVE) == 7
    assert [r.op for r in p.remarks] == ["test.swap"]


def test_with_is_for_its_own_thread():
    f = jax.jit(fresh())
    with hook.pipeline("test-swap"), ThreadPoolExecutor(1) as pool:
        assert pool.submit(f, FIVE).result() == 7
        assert f(FIVE) == 3


def test_threads_compile_at_once():
    f = jax.jit(lambda x: x + x.shape[0])
    start = threading.Barrier(8)
    p = hook.pipeline("test-swap")

    def run(n):
        start.wait()
        with p if n % 2 else hook.pipeline(None):
            return float(f(np.full(n + 1, 5, "float32"))[0])

    with ThreadPoolExecutor(8) as pool:
        results = list(pool.map(run, range(8)))
    assert results == [5 - (n + 1) if n % 2 else 5 + (n + 1) for n in range(8)]
    assert len(p.remarks) == 4


def test_bound_before_and_after_jax_has_run():
    """Functions compiled before the hook made its context are not mistaken for others."""
    run_python(
        """
        import jax
        f = jax.jit(lambda x: x + 2)
        assert f(5.0) == 7
        import test_hook
        from zenith_mlir import hook
        with hook.pipeline("test-swap"):
            assert f(5.0) == 3
        assert f(5.0) == 7
        """
    )


# ---- Ways into the lowering ----


def test_lowered_text_and_aot():
    f = jax.jit(fresh())
    with hook.pipeline("test-swap"):
        lowered = f.lower(FIVE)
    assert SUBTRACT in lowered.as_text()
    assert ADD not in lowered.as_text()
    assert lowered.compile()(FIVE) == 3
    assert ADD in f.lower(FIVE).as_text()


def test_eval_shape_lowers_nothing():
    with hook.pipeline("test-swap") as p:
        assert jax.jit(fresh()).eval_shape(FIVE).shape == ()
    assert p.remarks == []


def test_nested_jit_is_part_of_the_program():
    inner = jax.jit(fresh())
    with hook.pipeline("test-swap"):
        assert jax.jit(lambda x: inner(x) + inner(x) * 0)(FIVE) == 3
    assert inner(FIVE) == 7


def test_transformations():
    def f(x):
        return x * (x + 2.0)

    with hook.pipeline("test-swap"):
        assert jax.vmap(jax.jit(fresh()))(np.arange(3, dtype="float32")).tolist() == [-2, -1, 0]
        # d/dx x(x+2) = (x+2) + x becomes (x-2) - x
        assert abs(jax.jit(jax.grad(f))(FIVE)) == 2
        assert jax.jit(jax.checkpoint(plus))(FIVE) == 3
        # 5, 3, 1, -1 instead of 5, 7, 9
        assert jax.jit(lambda x: jax.lax.while_loop(lambda c: (c > 0) & (c < 9), lambda c: c + 2, x))(FIVE) == -1


def test_custom_vjp():
    @jax.custom_vjp
    def f(x):
        return x + 2.0

    f.defvjp(lambda x: (f(x), x), lambda x, g: (g * (x + 3.0),))
    with hook.pipeline("test-swap"):
        value, gradient = jax.jit(jax.value_and_grad(f))(FIVE)
    assert (value, gradient) == (3, 2)
    value, gradient = jax.jit(jax.value_and_grad(f))(FIVE)
    assert (value, gradient) == (7, 8)


def test_donation_survives():
    f = jax.jit(lambda x: x + 2, donate_argnums=0)
    with hook.pipeline("test-swap"):
        text = f.lower(jnp.ones(4)).as_text()
        assert "tf.aliasing_output" in text or "jax.buffer_donor" in text
        x = jnp.full(4, 5.0)
        assert f(x).tolist() == [3] * 4
    assert x.is_deleted()


def test_static_arguments():
    f = jax.jit(lambda x, n: x + n, static_argnums=1)
    with hook.pipeline("test-swap"):
        assert f(FIVE, 2.0) == 3
        assert f(FIVE, 4.0) == 1


def test_unused_and_constant_arguments():
    big = np.arange(10_000, dtype="float32")
    f = jax.jit(lambda x, unused: x + big)
    with hook.pipeline("test-swap"):
        np.testing.assert_array_equal(f(FIVE, FIVE), 5 - big)
    np.testing.assert_array_equal(f(FIVE, FIVE), 5 + big)


def test_pmap():
    f = jax.pmap(lambda x: x + 2.0)
    with hook.pipeline("test-swap"):
        assert f(np.full((1, 2), 5, "float32")).tolist() == [[3, 3]]


def test_callbacks_keep_working(capfd):
    seen = []

    def f(x):
        y = jax.pure_callback(lambda a: np.asarray(a) * 10, jax.ShapeDtypeStruct((), "float32"), x)
        jax.experimental.io_callback(lambda a: seen.append(float(a)), None, y + 1, ordered=True)
        jax.debug.print("y is {}", y)
        jax.debug.print("ordered {}", y, ordered=True)
        return y + 2

    from jax import experimental  # noqa: F401

    with hook.pipeline("test-swap"):
        g = jax.jit(f)
        assert g(FIVE) == 48
        assert g(FIVE) == 48
        del g
        jax.effects_barrier()
    assert seen == [49, 49]
    assert capfd.readouterr().out.count("ordered 50.0") == 2


def test_sharded_arguments_and_shard_map():
    run_python(
        """
        import jax, jax.numpy as jnp, numpy as np
        from jax.sharding import NamedSharding, PartitionSpec as P
        import test_hook
        from zenith_mlir import hook

        mesh = jax.make_mesh((4,), ("d",), axis_types=(jax.sharding.AxisType.Auto,))
        x = jax.device_put(np.full((8, 2), 5, "float32"), NamedSharding(mesh, P("d")))
        f = jax.jit(lambda x: x + 2)
        psum = lambda x: jax.lax.psum(x, "d") + 2
        g = jax.jit(jax.shard_map(psum, mesh=mesh, in_specs=P("d"), out_specs=P()))
        h = jax.pmap(lambda x: x + 2)
        with hook.pipeline("test-swap", strict=True):
            y = f(x)
            assert y.sharding.is_equivalent_to(x.sharding, 2), y.sharding
            np.testing.assert_array_equal(y, 3)
            np.testing.assert_array_equal(g(x), 18)
            np.testing.assert_array_equal(h(np.full((4, 2), 5, "float32")), 3)
        np.testing.assert_array_equal(f(x), 7)
        np.testing.assert_array_equal(g(x), 22)
        donated = jax.jit(lambda x: x + 2, donate_argnums=0)
        with hook.pipeline("test-swap", strict=True):
            np.testing.assert_array_equal(donated(x), 3)
        assert x.is_deleted()
        """,
        XLA_FLAGS=f"{os.environ['XLA_FLAGS']} --xla_force_host_platform_device_count=4",
    )


def test_kernels_in_executables_restored_from_the_persistent_cache(tmp_path):
    """A new process, which lowers no kernel itself, finds the FFI targets registered."""
    require_kernels()
    program = """
        import jax, numpy as np, sys
        import test_hook
        from zenith_mlir import hook

        jax.config.update("jax_compilation_cache_dir", sys.argv[1])
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
        jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
        events = []
        jax.monitoring.register_event_listener(lambda event, **_: events.append(event))
        q, k, v = (np.linspace(-1, 1, 8 * n, dtype="float32").reshape(n, 8) for n in (4, 6, 6))
        with hook.pipeline("test-attention", strict=True):
            out = jax.jit(lambda q, k, v: jax.nn.softmax(q @ k.T) @ v)(q, k, v)
        p = np.exp(q @ k.T)
        np.testing.assert_allclose(out, p / p.sum(1, keepdims=True) @ v, rtol=1e-5)
        print(sum("cache_hits" in event for event in events))
        """
    assert run_python(program, str(tmp_path)).stdout == "0\n"
    assert any(tmp_path.iterdir())
    assert run_python(program, str(tmp_path)).stdout == "1\n"


# ---- jax.export ----


def test_export_is_rewritten_and_stays_portable():
    with hook.pipeline("test-swap,test-call") as p:
        exported = export.export(jax.jit(fresh()))(FIVE)
    assert [r.args.get("target") for r in p.remarks if r.op] == ["none"]
    assert SUBTRACT in exported.mlir_module()
    assert export.deserialize(exported.serialize()).call(FIVE) == 3


def test_export_for_a_named_target_needs_the_check_disabled():
    check = export.DisabledSafetyCheck.custom_call("zenith_test")
    with hook.pipeline("test-call", target="cpu"):
        with pytest.raises(ValueError, match="zenith_test"):
            export.export(jax.jit(fresh()))(FIVE)
        exported = export.export(jax.jit(fresh()), disabled_checks=[check])(FIVE)
    assert "@zenith_test" in exported.mlir_module()
    exported.serialize()


def test_what_was_exported_is_rewritten_where_it_is_called():
    exported = export.deserialize(export.export(jax.jit(fresh()))(FIVE).serialize())
    assert jax.jit(exported.call)(FIVE) == 7
    with hook.pipeline("test-swap"):
        assert jax.jit(exported.call)(FIVE) == 3


def test_export_for_several_platforms():
    with hook.pipeline("test-swap") as p:
        exported = export.export(jax.jit(fresh()), platforms=["cpu", "cuda"])(FIVE)
    assert exported.platforms == ("cpu", "cuda")
    assert p.remarks[0].args["target"] == "none"
    assert exported.call(FIVE) == 3


def test_export_with_symbolic_shapes():
    (n,) = export.symbolic_shape("n")
    with hook.pipeline("test-swap"):
        exported = export.export(jax.jit(lambda x: x * 2 + x))(jax.ShapeDtypeStruct((n,), "float32"))
    assert exported.call(np.full(3, 5, "float32")).tolist() == [5, 5, 5]


# ---- zenith.jit ----


def test_jit_binds_its_pipeline():
    f = hook.jit(fresh(), "test-swap")
    assert f(FIVE) == 3
    with hook.pipeline("test-swap{to=multiply}"):
        assert f(FIVE) == 3
    with hook.pipeline(None):
        assert f(FIVE) == 3
    assert SUBTRACT in f.lower(FIVE).as_text()
    assert SUBTRACT in f.trace(FIVE).lower().as_text()
    assert f.eval_shape(FIVE).dtype == "float32"
    assert SUBTRACT in export.export(f)(FIVE).mlir_module()
    assert [r.pass_name for r in f.remarks][:1] == ["test-swap"]
    f.clear_cache()
    assert f.__name__ == "<lambda>"
    assert "test-swap" in repr(f)


def test_jit_off_whatever_is_bound():
    f = hook.jit(fresh(), None)
    with hook.pipeline("test-swap"):
        assert f(FIVE) == 7


def test_jit_as_a_decorator_with_jax_options():
    @hook.jit(pipeline="test-swap", static_argnames="n")
    def f(x, *, n):
        """Adds."""
        return x + n

    assert f(FIVE, n=2.0) == 3
    assert f.__doc__ == "Adds."


def test_jit_on_a_method_and_under_transformations():
    class Model:
        def __init__(self, bias):
            self.bias = bias

        @functools.partial(hook.jit, pipeline="test-swap", static_argnums=0)
        def __call__(self, x):
            return x + self.bias

        @functools.partial(hook.jit, pipeline="test-swap", static_argnums=0)
        def method(self, x):
            return x + self.bias

    model = Model(2.0)
    assert model.method(FIVE) == 3
    assert model(FIVE) == 3
    assert jax.vmap(hook.jit(fresh(), "test-swap"))(np.array([5, 6], "float32")).tolist() == [3, 4]
    assert jax.jit(hook.jit(fresh(), "test-swap"))(FIVE) == 7  # part of the outer program


def test_jit_is_what_jax_calls_wrapped():
    assert isinstance(hook.jit(fresh(), "test-swap"), jax.stages.Wrapped)
    assert isinstance(hook.jit(fresh(), "test-swap").trace(FIVE), jax.stages.Traced)


def test_jit_passes_its_own_options_on():
    f = hook.jit(fresh(), "test-swap", target="cpu:avx2", numerics="fast", strict=True, remarks="none")
    f(FIVE)
    assert f.remarks[0].args["target"] == "cpu:avx2"


# ---- Failing passes ----


def test_a_reproducer_reproduces(tmp_path, monkeypatch):
    monkeypatch.setenv("ZENITH_REPRODUCER_DIR", str(tmp_path))
    with hook.pipeline("test-swap,test-raise"), pytest.warns(hook.ZenithWarning):
        jax.jit(fresh())(FIVE)
    (file,) = tmp_path.iterdir()
    found = Reproducer.read(file.read_text(), file.name)
    assert (found.pipeline, found.target, found.numerics) == ("test-swap,test-raise", "cpu", "sound")
    with pytest.raises(PassError, match="boom"):
        Module.parse(file.read_bytes()).run(found.pipeline)


def test_a_reproducer_that_cannot_be_written_stops_nothing(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("ZENITH_REPRODUCER_DIR", str(tmp_path / "file"))
    with (
        hook.pipeline("test-raise"),
        pytest.warns(hook.ZenithWarning, match="No reproducer could be written"),
    ):
        assert float(jax.jit(fresh())(FIVE)) == 7


@pytest.mark.parametrize("name", ["test-raise", "test-ruin"])
def test_a_failing_pass_leaves_the_program_as_it_is(name, tmp_path, monkeypatch):
    monkeypatch.setenv("ZENITH_REPRODUCER_DIR", str(tmp_path / "new"))
    f = jax.jit(fresh())
    with hook.pipeline(f"test-swap,{name}") as p, warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        assert float(f(FIVE)) == 7
        assert ADD in f.lower(FIVE).as_text()
        assert f(np.ones(3, "float32")).tolist() == [3, 3, 3]
    (warning,) = caught
    assert warning.category is hook.ZenithWarning
    assert warning.filename == __file__
    assert f"pass {name} failed" in str(warning.message)
    (reproducer,) = (tmp_path / "new").iterdir()
    assert str(reproducer) in str(warning.message)
    assert ADD in reproducer.read_text()
    assert {(r.kind, r.pass_name) for r in p.remarks} == {("failure", name)}


@pytest.mark.parametrize("name", ["test-raise", "test-ruin"])
def test_strict_raises_every_time(name, tmp_path, monkeypatch):
    monkeypatch.setenv("ZENITH_REPRODUCER_DIR", str(tmp_path))
    f = jax.jit(fresh())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with hook.pipeline(name, strict=True):
            for _ in range(2):
                with pytest.raises(PassError, match=name):
                    f(FIVE)
    assert len(list(tmp_path.iterdir())) == 1


def test_strict_after_the_program_was_compiled_as_it_is(tmp_path, monkeypatch):
    monkeypatch.setenv("ZENITH_REPRODUCER_DIR", str(tmp_path))
    f = jax.jit(fresh())
    with pytest.warns(hook.ZenithWarning), hook.pipeline("test-raise"):
        assert float(f(FIVE)) == 7
    with hook.pipeline("test-raise", strict=True), pytest.raises(PassError) as error:
        f(FIVE)
    assert any(str(tmp_path) in note for note in error.value.__notes__)


def test_strict_from_the_environment(monkeypatch, tmp_path):
    monkeypatch.setenv("ZENITH_REPRODUCER_DIR", str(tmp_path))
    monkeypatch.setenv("ZENITH_STRICT", "1")
    with hook.pipeline("test-raise"), pytest.raises(PassError, match="boom"):
        jax.jit(fresh())(FIVE)
    monkeypatch.setenv("ZENITH_STRICT", "0")
    with hook.pipeline("test-raise"), pytest.warns(hook.ZenithWarning):
        assert float(jax.jit(fresh())(FIVE)) == 7


def test_a_program_that_cannot_be_lowered_fails_as_ever():
    with hook.pipeline("test-swap"), pytest.raises(TypeError):
        jax.jit(lambda x: x + "a")(FIVE)
    assert jax.jit(fresh())(FIVE) == 7


def test_passes_lower_with_the_hook_off():
    with hook.pipeline("test-trace,test-swap", strict=True) as p:
        assert float(jax.jit(fresh())(FIVE)) == 3
    assert [r.pass_name for r in p.remarks] == ["test-trace", "test-swap"]


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (("tset-swap",), PipelineError, "test-swap"),
        (("test-swap{of=x}",), PipelineError, "of"),
        (("test-swap{",), PipelineError, "expected"),
        (("test-swap", {"target": "gpu9"}), TargetError, "gpu9"),
        (("test-swap", {"numerics": "sounds"}), ZenithError, "did you mean sound"),
        (("test-swap", {"remarks": "some"}), ZenithError, "none, passed, missed, all"),
    ],
)
def test_bad_arguments_are_refused_at_once(arguments, error, message):
    text, options = arguments[0], (arguments[1:] or [{}])[0]
    for bind in (hook.pipeline, hook.set_pipeline, functools.partial(hook.jit, fresh())):
        with pytest.raises(error, match=message):
            bind(text, **options)
    assert hook._bound.value is None


# ---- Remarks ----


def test_remarks_name_the_line_of_the_user():
    def f(x):
        return x + 2  # here

    with hook.pipeline("test-swap") as p:
        jax.jit(f)(FIVE)
    (remark,) = p.remarks
    assert Path(__file__).samefile(remark.file)
    assert "# here" in Path(remark.file).read_text().splitlines()[remark.line - 1]


def test_jit_leaves_no_frame_of_ours_in_locations():
    text = hook.jit(fresh(), "test-swap").lower(FIVE).as_text(debug_info=True)
    assert "zenith_mlir/hook.py" not in text


@pytest.mark.parametrize(("shown", "lines"), [("all", 1), ("passed", 1), ("missed", 0), (None, 0)])
def test_remarks_are_printed_when_asked_for(shown, lines, capsys, monkeypatch):
    with hook.pipeline("test-swap", remarks=shown):
        jax.jit(fresh())(FIVE)
    assert capsys.readouterr().err.count("remark: [passed] test-swap: test.swap") == lines
    monkeypatch.setenv("ZENITH_REMARKS", shown or "")
    with hook.pipeline("test-swap{to=multiply}"):
        jax.jit(fresh())(FIVE)
    assert capsys.readouterr().err.count("remark: [passed] test-swap: test.swap") == lines


@pytest.mark.parametrize(
    ("platforms", "for_export", "target"),
    [
        (["cpu"], False, "cpu"),
        (["cpu"], True, "none"),
        (["cpu", "cuda"], False, "none"),
        (["tpu"], False, "none"),
    ],
)
def test_target_of_a_lowering(platforms, for_export, target):
    assert str(hook._target(platforms, for_export)) == target


def test_target_for_cuda_describes_a_gpu():
    assert hook._target(["cuda"], False).platform == "cuda"


# ---- The default pipeline ----


def attention(q, k, v):
    logits = jnp.einsum("bqhd,bkhd->bhqk", q, k) / 8
    return jnp.einsum("bhqk,bkhd->bqhd", jax.nn.softmax(logits), v)


def test_the_default_pipeline_calls_kernels_here_and_exports_composites():
    require_kernels()
    q, k, v = np.random.default_rng(0).standard_normal((3, 1, 256, 4, 64)).astype("float32")
    f = jax.jit(attention)
    expected = f(q, k, v)
    with hook.pipeline("default", strict=True) as p:
        np.testing.assert_allclose(f(q, k, v), expected, atol=1e-5)
        assert "custom_call @zenith_attention" in f.lower(q, k, v).as_text()
        exported = export.deserialize(export.export(f)(q, k, v).serialize())
    assert "zenith.attention" in {remark.op for remark in p.remarks if remark.kind == "passed"}
    assert "custom_call @zenith_attention" not in exported.mlir_module()
    assert 'stablehlo.composite "zenith.attention"' in exported.mlir_module()
    np.testing.assert_allclose(jax.jit(exported.call)(q, k, v), expected, atol=1e-5)
    with hook.pipeline("default", strict=True):
        called = jax.jit(exported.call).lower(q, k, v)
    assert "custom_call @zenith_attention" in called.as_text()
    np.testing.assert_allclose(called.compile()(q, k, v), expected, atol=1e-5)


# ---- The hook itself ----


def test_import_installs_nothing():
    run_python(
        """
        import sys, zenith_mlir
        assert "jax" not in sys.modules
        import jax
        from jax._src.interpreters import mlir
        original = mlir.lower_jaxpr_to_module
        import zenith_mlir.hook
        assert mlir.lower_jaxpr_to_module is original
        with zenith_mlir.hook.pipeline(None):
            assert mlir.lower_jaxpr_to_module is original
        with zenith_mlir.pipeline("cse"):
            assert mlir.lower_jaxpr_to_module is not original
        """
    )


def test_install_is_idempotent_and_can_be_undone():
    hook.install()
    installed = jax_mlir.lower_jaxpr_to_module
    hook.install()
    assert jax_mlir.lower_jaxpr_to_module is installed
    hook.set_pipeline("test-swap")
    hook.uninstall()
    assert jax_mlir.lower_jaxpr_to_module is installed.zenith_original
    assert jax.jit(fresh())(FIVE) == 7
    with hook.pipeline("test-swap"):
        assert jax.jit(fresh())(FIVE) == 3


def test_a_jax_that_lowers_otherwise_is_refused(monkeypatch):
    def lower_jaxpr_to_module(module_name, jaxpr, options):
        raise AssertionError

    hook.uninstall()
    with monkeypatch.context() as patch:
        patch.setattr(jax_mlir, "lower_jaxpr_to_module", lower_jaxpr_to_module)
        with pytest.raises(hook.UnsupportedJaxError, match=r"jax>=0\.10,<0\.13"), hook.pipeline("test-swap"):
            pass
        patch.delattr(jax_mlir, "lower_jaxpr_to_module")
        with pytest.raises(hook.UnsupportedJaxError), hook.pipeline("test-swap"):
            pass
    assert jax.jit(fresh())(FIVE) == 7


def test_jax_calls_the_function_that_is_wrapped(monkeypatch):
    """jax.jit and jax.export look lower_jaxpr_to_module up in jax._src.interpreters.mlir, here too."""
    calls = []
    original = jax_mlir.lower_jaxpr_to_module

    def spy(*args, **kwargs):
        calls.append(kwargs["lowering_parameters"].for_export)
        return original(*args, **kwargs)

    monkeypatch.setattr(jax_mlir, "lower_jaxpr_to_module", spy)
    jax.jit(lambda x: x + 3)(FIVE)
    jax.jit(lambda x: x + 4).lower(FIVE)
    export.export(jax.jit(lambda x: x + 5))(FIVE)
    assert calls == [False, False, True]


def require_kernels():
    from zenith_mlir.kernels import cpu

    try:
        cpu.register()
    except cpu.KernelLibraryMissing as error:
        pytest.skip(str(error))


def run_python(program, *arguments, **environment):
    """Run a program of its own, with the passes of this file in reach as `test_hook`."""
    import textwrap

    here = Path(__file__).parent
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program), *arguments],
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(here), str(here.parents[1])]), **environment},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done
