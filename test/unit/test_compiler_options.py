"""Compiler options that a module brings along, and that they reach XLA however it is compiled."""

from __future__ import annotations

import functools

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import pytest
from jax._src import compiler as jax_compiler
from remat_programs import chain

from zenith_mlir import hook
from zenith_mlir.ir import compiler_options
from zenith_mlir.ir.compiler_options import KEEP_BARRIERS, LATE_CONVERSIONS, merge, require, required, withdraw
from zenith_mlir.ir.executable import compile_module
from zenith_mlir.module import Module, load, trace
from zenith_mlir.remat.policy import Policy, keeps_barriers

LISTED = "xla_disable_hlo_passes"
NOTHING = Policy(jax.checkpoint_policies.nothing_saveable)
X, W = np.full((4, 8), 0.1, "float32"), np.full((8, 8), 0.1, "float32")


def layer(x, w):
    return jnp.tanh(jnp.tanh(x @ w) @ w)


def gradient(policy, layers=2):
    """Of layers one after another, each computed again, and their result."""
    block = jax.checkpoint(layer, policy=policy)

    def loss(w):
        return functools.reduce(lambda x, _: block(x, w), range(layers), X).sum()

    return jax.value_and_grad(loss)


def hyperbolic_tangents(compiled):
    return compiled.as_text().count(" tanh(")


@pytest.fixture
def spied(monkeypatch):
    """The options with which JAX compiles from here on."""
    seen = []
    original = jax_compiler.backend_compile_and_load

    def spy(backend, module, devices, options, *args, **kwargs):
        seen.append(dict(options.env_option_overrides))
        return original(backend, module, devices, options, *args, **kwargs)

    hook.install()
    monkeypatch.setattr(jax_compiler, "backend_compile_and_load", spy)
    return seen


def test_merge():
    assert merge({LISTED: "a,b", "other": "1"}, {LISTED: "c,a", "other": "2", "third": 3}) == {
        LISTED: "c,a,b",
        "other": "2",
        "third": 3,
    }
    assert merge({LISTED: "a"}, {LISTED: ""}) == {LISTED: "a"}
    assert merge({LISTED: "a"}, {}) == {LISTED: "a"}


def test_required_survives_text_bytecode_clones_and_passes(tmp_path):
    module = trace(lambda x: x + 1, X)
    assert required(module.ir) == {}
    require(module.ir, {"xla_cpu_something": "true"})
    require(module.ir, KEEP_BARRIERS)
    require(module.ir, KEEP_BARRIERS)
    expected = {"xla_cpu_something": "true", **KEEP_BARRIERS}
    module.save(tmp_path / "m.mlirbc")
    for same in (module, Module.parse(module.text()), load(tmp_path / "m.mlirbc"), module.run("prepare")):
        assert required(same.ir) == expected
    assert "zenith.cpu_compiler_options = {xla_cpu_something" in module.text()


def test_a_module_is_compiled_with_what_it_requires():
    module = trace(gradient(jax.checkpoint_policies.nothing_saveable), W)
    require(module.ir, KEEP_BARRIERS)
    # Four of the forward and four once more.
    assert hyperbolic_tangents(module.compile()) == 8
    both = compile_module(module, compiler_options={LISTED: "dce"})
    assert hyperbolic_tangents(both) == 8
    np.testing.assert_allclose(module.compile()(W)[1], jax.grad(lambda w: layer(layer(X, w), w).sum())(W), rtol=1e-5)


def test_small_loops_may_hold_barriers():
    """XLA:CPU would make a kernel of this loop, and abort the process."""
    block = jax.checkpoint(lambda x: jnp.sin(jnp.sin(x) * x), policy=NOTHING)

    def loss(x):
        return jax.lax.scan(lambda x, _: (block(x), None), x, length=3)[0].sum()

    hook.install()
    compiled = jax.jit(jax.grad(loss)).lower(X).compile()
    assert "opt-barrier(" in compiled.as_text()
    plain = jax.grad(lambda x: functools.reduce(lambda x, _: jnp.sin(jnp.sin(x) * x), range(3), x).sum())
    np.testing.assert_allclose(compiled(X), plain(X), rtol=1e-5)


def test_the_hook_completes_the_options_of_jit(spied):
    f = jax.jit(gradient(NOTHING))
    assert "zenith.cpu_compiler_options" in f.lower(W).as_text()
    assert hyperbolic_tangents(f.lower(W).compile()) == 8
    with hook.pipeline("simplify"):
        f.lower(W).compile()
    f.lower(W).compile(compiler_options={LISTED: "algsimp", "xla_cpu_enable_fast_math": True})
    assert spied == [
        KEEP_BARRIERS,
        KEEP_BARRIERS,
        {LISTED: f"algsimp,{KEEP_BARRIERS[LISTED]}", "xla_cpu_enable_fast_math": True},
    ]


def test_other_programs_are_compiled_as_ever(spied):
    f = jax.jit(gradient(jax.checkpoint_policies.nothing_saveable))
    f.lower(W).compile()
    assert spied == [{}]
    assert "zenith" not in f.lower(W).as_text()


def test_flags_of_the_process_are_kept():
    class Flags:
        xla_disable_hlo_passes = "rematerialization"

    class Build:
        debug_options = Flags

    class Options:
        executable_build_options = Build
        env_option_overrides = ()

    module = trace(lambda x: x, X).ir
    require(module, KEEP_BARRIERS)
    compiler_options.apply(module, "cuda", Options)
    assert Options.env_option_overrides == ()
    compiler_options.apply(module, "cpu", Options)
    assert Options.env_option_overrides == [(LISTED, f"rematerialization,{KEEP_BARRIERS[LISTED]}")]


def test_policies_are_found_at_any_depth():
    scanned = jax.checkpoint(layer, policy=NOTHING)

    def f(w):
        x, _ = jax.lax.scan(lambda x, _: (scanned(x, w), None), X, length=2)
        return jax.lax.cond(x.sum() > 0, jax.jit(lambda x: x.sum()), lambda x: -x.sum(), x)

    assert keeps_barriers(jax.make_jaxpr(jax.grad(f))(W))
    assert keeps_barriers(jax.make_jaxpr(jax.vmap(jax.grad(f)))(np.stack([W, W])))
    assert not keeps_barriers(jax.make_jaxpr(gradient(None))(W))
    # Without a gradient, or without barriers.
    assert not keeps_barriers(jax.make_jaxpr(f)(W))
    free = jax.checkpoint(layer, policy=NOTHING, prevent_cse=False)
    assert not keeps_barriers(jax.make_jaxpr(jax.grad(lambda w: free(X, w).sum()))(W))


def test_a_jax_that_compiles_otherwise_is_refused(monkeypatch):
    hook.uninstall()
    monkeypatch.setattr(jax_compiler, "compile_or_get_cached", lambda module: module)
    with pytest.raises(hook.UnsupportedJaxError):
        hook.install()


def test_uninstalled():
    hook.install()
    wrapped = jax_compiler.compile_or_get_cached
    hook.uninstall()
    assert jax_compiler.compile_or_get_cached is wrapped.zenith_original
    hook.install()
    assert jax_compiler.compile_or_get_cached is not wrapped.zenith_original


def test_keys_of_the_persistent_cache_differ(tmp_path):
    """A program compiled without the option is not taken for the same with it."""
    hook.install()
    settings = {
        "jax_compilation_cache_dir": str(tmp_path),
        "jax_persistent_cache_min_compile_time_secs": 0,
        "jax_persistent_cache_min_entry_size_bytes": -1,
    }
    before = {name: getattr(jax.config, name) for name in settings}
    try:
        for name, value in settings.items():
            jax.config.update(name, value)
        for policy in (jax.checkpoint_policies.nothing_saveable, NOTHING, Policy(NOTHING.saveable)):
            jax.jit(gradient(policy)).lower(W).compile()
    finally:
        for name, value in before.items():
            jax.config.update(name, value)
    assert len([path for path in tmp_path.iterdir() if path.name.endswith("-cache")]) == 2


def test_exported_programs_are_called_anywhere():
    hook.install()
    exported = jax.export.deserialize(jax.export.export(jax.jit(gradient(NOTHING)))(W).serialize())
    assert "zenith.cpu_compiler_options" in exported.mlir_module()
    np.testing.assert_allclose(exported.call(W)[1], gradient(None)(W)[1], rtol=1e-5)


def test_what_is_withdrawn_is_required_no_more():
    module = trace(lambda x: x + 1, X)
    require(module.ir, {"xla_cpu_something": "true"})
    require(module.ir, LATE_CONVERSIONS)
    withdraw(module.ir, LATE_CONVERSIONS)
    assert required(module.ir) == {"xla_cpu_something": "true"}
    withdraw(module.ir, {"xla_cpu_something": "true"})
    assert required(module.ir) == {} and compiler_options.ATTRIBUTE not in module.text()


def test_weights_are_converted_late_unless_something_is_computed_again():
    function, arguments = chain()
    cast = trace(function, *arguments).run("prepare,cast-precision")
    assert LATE_CONVERSIONS.items() <= required(cast.ir).items()
    again = cast.run("insert-remat{budget=70% measure=false min-bytes=0}")
    assert KEEP_BARRIERS.items() <= required(again.ir).items()
    assert not LATE_CONVERSIONS.keys() & required(again.ir).keys()
    checkpointed = trace(gradient(jax.checkpoint_policies.nothing_saveable), W).run("prepare,cast-precision")
    assert not LATE_CONVERSIONS.keys() & required(checkpointed.ir).keys()


def test_weights_that_are_converted_late_do_not_wait():
    def products(x, weights):
        return functools.reduce(lambda x, w: jnp.tanh(x @ w), weights, x)

    weights = [np.full((256, 256), 0.01, "float32")] * 8
    cast = trace(products, np.ones((4, 256), "float32"), weights).run("prepare,cast-precision")
    assert cast.compile("cpu").memory_analysis().temp_size_in_bytes < 4 * 256 * 256 * 2
