"""Training under a policy and a loss scale: gradients, skipped steps, one decision on all devices."""

import os
import subprocess
import sys
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import precision_training
import pytest

from zenith_mlir.precision.loss_scale import DynamicLossScale, LossScale, NoLossScale, StaticLossScale
from zenith_mlir.precision.policy import Policy
from zenith_mlir.precision.training import TrainStep, train_step, value_and_grad

MIXED = Policy.parse("mixed_float16")
SCALES = [DynamicLossScale(2.0**14), StaticLossScale(2.0**14), NoLossScale()]


def tiny(w: jax.Array, x: jax.Array) -> jax.Array:
    """Its gradient, 2^-26, is no number of float16."""
    return jnp.sum((w * x).astype(jnp.float32)) * 2.0**-26


@pytest.mark.parametrize("scale", SCALES[:2])
def test_gradients_that_float16_cannot_hold_survive(scale: LossScale) -> None:
    w, x = jnp.full(4, 3.0), jnp.ones(4)
    value, grads, finite = value_and_grad(tiny, MIXED, scale)(w, x)
    assert value == 12 * 2.0**-26 and finite
    assert grads.dtype == jnp.float32 and grads.tolist() == [2.0**-26] * 4
    # The control: without a scale they are gone, and nothing says so.
    _, grads, finite = value_and_grad(tiny, MIXED, NoLossScale())(w, x)
    assert grads.tolist() == [0.0] * 4 and finite


@pytest.mark.parametrize("scale", SCALES)
def test_gradients_have_the_dtype_of_what_is_stored(scale: LossScale) -> None:
    params = {name: jnp.full(2, 0.5, name) for name in ("float32", "float16", "bfloat16")}

    def loss(params: dict[str, jax.Array], n: jax.Array) -> jax.Array:
        assert {leaf.dtype for leaf in params.values()} == {jnp.dtype("float16")} and n.dtype == jnp.int32
        return (params["float32"] * params["float16"] * params["bfloat16"] * n).sum()

    value, grads, _ = value_and_grad(loss, MIXED, scale)(params, jnp.array(2))
    assert value == 0.5 and value.dtype == jnp.float32
    assert {name: (str(leaf.dtype), leaf.tolist()) for name, leaf in grads.items()} == {
        name: (name, [0.5, 0.5]) for name in params
    }


def test_the_loss_is_reported_unscaled_even_where_the_scaled_one_overflows() -> None:
    scale = StaticLossScale(2.0**127)
    value, grads, finite = value_and_grad(lambda w: w * 4, None, scale)(jnp.float32(1))
    assert value == 4 and not finite and not jnp.isfinite(grads)


def test_gradients_too_large_for_stored_float16_are_not_finite() -> None:
    """Unscaled they are finite in float32; it is the parameter's dtype that cannot hold them."""
    grad = value_and_grad(lambda w: w.astype(jnp.float32) * 2.0**17, None, StaticLossScale(2.0**-8))
    assert not grad(jnp.float16(1)).finite


def test_auxiliary_results_and_other_arguments() -> None:
    def loss(w: jax.Array, b: jax.Array, *, n: int) -> tuple[jax.Array, dict[str, jax.Array]]:
        return (w * b).sum() * n, {"w": w}

    gradient = value_and_grad(loss, MIXED, StaticLossScale(8.0), argnums=(0, 1), has_aux=True)
    (value, aux), (dw, db), finite = gradient(jnp.full(2, 3.0), jnp.full(2, 5.0), n=2)
    assert value == 60 and finite and dw.tolist() == [10, 10] and db.tolist() == [6, 6]
    assert aux["w"].dtype == jnp.float32 and aux["w"].tolist() == [3, 3]


def run(step: Any, batches: list[float], scale: LossScale, optimizer: Any) -> list[TrainStep]:
    """One jitted step a batch."""
    state: Any = (jnp.ones(2), optimizer.init(jnp.ones(2)), scale)
    steps = []
    for batch in batches:
        steps.append(step(*state, jnp.full(2, batch)))
        state = steps[-1][:3]
    return steps


def product(w: jax.Array, x: jax.Array) -> jax.Array:
    return (w * x).sum()


def test_a_step_with_infinite_gradients_is_skipped_and_the_next_is_not() -> None:
    optimizer = optax.adam(0.1)
    step = jax.jit(train_step(product, optimizer, MIXED))
    fine, bad, again = run(step, [1.0, 60000.0, 1.0], DynamicLossScale(2.0, growth_interval=2), optimizer)
    assert [bool(s.finite) for s in (fine, bad, again)] == [True, False, True]
    for before, after in zip(jax.tree.leaves(fine[:2]), jax.tree.leaves(bad[:2]), strict=True):
        np.testing.assert_array_equal(before, after)
    assert [int(s.opt_state[0].count) for s in (fine, bad, again)] == [1, 1, 2]
    assert [float(s.loss_scale.loss_scale) for s in (fine, bad, again)] == [2, 1, 1]
    assert [int(s.loss_scale.growth_tracker) for s in (fine, bad, again)] == [1, 0, 1]
    assert (again.params < bad.params).all()
    assert step._cache_size() == 1


def test_the_same_steps_under_scan() -> None:
    optimizer = optax.adam(0.1)
    step, batches, scale = train_step(product, optimizer, MIXED), [1.0, 60000.0, 1.0], DynamicLossScale(2.0)

    def body(state: Any, batch: jax.Array) -> tuple[Any, jax.Array]:
        *state, _, finite = step(*state, jnp.full(2, batch))
        return tuple(state), finite

    state = (jnp.ones(2), optimizer.init(jnp.ones(2)), scale)
    state, finite = jax.jit(lambda state, xs: jax.lax.scan(body, state, xs))(state, jnp.array(batches))
    assert finite.tolist() == [True, False, True]
    last = run(jax.jit(step), batches, scale, optimizer)[-1]
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), state, tuple(last[:3]))


@pytest.mark.parametrize("scale", SCALES)
def test_clipping_sees_unscaled_gradients(scale: LossScale) -> None:
    optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.sgd(1.0))
    # A norm below the limit stays, one above becomes it; clipped before unscaling, both would nearly vanish.
    for batch, expected in ((0.25, 0.75), (2.0, 1 - 0.5**0.5)):
        (step,) = run(train_step(product, optimizer, MIXED), [batch], scale, optimizer)
        np.testing.assert_allclose(step.params, [expected] * 2, rtol=1e-6)


DEVICES = """
import jax, jax.numpy as jnp, numpy as np, optax
from jax.sharding import AxisType, NamedSharding, PartitionSpec as P
from zenith_mlir.precision import DynamicLossScale, Policy, train_step, value_and_grad

policy, optimizer = Policy.parse("mixed_float16"), optax.sgd(0.125)
w, scale = jnp.ones(2), DynamicLossScale(8.0, growth_interval=1)
loss = lambda w, x: jnp.mean((x @ w).astype(jnp.float32))
good = jnp.arange(8.0).reshape(4, 2)
average = lambda axis: dict(axis_name=axis, reduce=lambda grads: jax.lax.pmean(grads, axis))

def auto_mesh(x, axis_type=AxisType.Auto):
    mesh = jax.make_mesh((4,), ("d",), axis_types=(axis_type,))
    with jax.set_mesh(mesh):
        return jax.jit(train_step(loss, optimizer, policy))(w, optimizer.init(w), scale, jax.device_put(x, P("d")))

def explicit_mesh(x):
    return auto_mesh(x, AxisType.Explicit)

def pmap(x):
    step = jax.pmap(train_step(loss, optimizer, policy, **average("d")), "d", in_axes=(None, None, None, 0))
    return step(w, optimizer.init(w), scale, x[:, None])

def shard_map(x, check_vma=False):
    step = train_step(loss, optimizer, policy, **average("d"))
    if check_vma:
        # The gradient by what is the same everywhere is summed by JAX, so the mean is the loss's business.
        step = train_step(lambda w, x: jax.lax.pmean(loss(w, x), "d"), optimizer, policy, axis_name="d")
    mesh = jax.make_mesh((4,), ("d",), axis_types=(AxisType.Auto,))
    specs = dict(in_specs=(P(), P(), P(), P("d")), out_specs=P(), check_vma=check_vma)
    result = jax.jit(jax.shard_map(step, mesh=mesh, **specs))(w, optimizer.init(w), scale, x)
    return result._replace(value=None)

def checked_shard_map(x):
    return shard_map(x, check_vma=True)

for run in (auto_mesh, explicit_mesh, pmap, shard_map, checked_shard_map):
    for x, finite, params, after in (
        (good, True, 1 - good.mean(0) / 8, 16.0),
        (good.at[2, 1].set(jnp.nan), False, jnp.ones(2), 4.0),
    ):
        result = run(x)
        per_device = lambda tree: [np.asarray(s.data) for s in tree.addressable_shards]
        for got, expected in ((result.finite, finite), (result.params, params), (result.loss_scale.loss_scale, after)):
            assert len(per_device(got)) == 4, run
            for shard in per_device(got):
                np.testing.assert_allclose(shard.reshape(np.shape(expected)), expected, err_msg=str(run))

# The decision alone, with gradients that are left as each device has them.
for axis_name, finite in ((None, [True, True, False, True]), ("d", [False] * 4), (("d",), [False] * 4)):
    gradient = value_and_grad(loss, policy, scale, axis_name=axis_name)
    assert jax.pmap(gradient, "d", in_axes=(None, 0))(w, good.at[2, 1].set(jnp.inf)).finite.tolist() == finite
"""


def test_all_devices_take_one_decision() -> None:
    environment = {**os.environ, "XLA_FLAGS": "--xla_force_host_platform_device_count=4"}
    done = subprocess.run([sys.executable, "-c", DEVICES], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.once
def test_float16_trains_as_float32_does_with_a_loss_scale_and_stalls_without(capsys: pytest.CaptureFixture) -> None:
    losses = precision_training.main(["--steps", "200"])
    assert losses["float32"] < 0.03
    for name in ("bfloat16", "float16, loss scale"):
        assert losses[name] == pytest.approx(losses["float32"], rel=0.02)
    assert losses["float16, none"] > 3 * losses["float32"]
    assert "65536" in capsys.readouterr().out
