"""Loss scales, held to torch.amp.GradScaler step by step, and to the defects of other implementations."""

import dataclasses
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import pytest

from zenith_mlir.errors import ZenithError
from zenith_mlir.precision.loss_scale import DynamicLossScale, LossScaleError, NoLossScale, StaticLossScale
from zenith_mlir.precision.trees import all_finite, select_tree

NAMES = [field.name for field in dataclasses.fields(DynamicLossScale)]
# No field has its default.
OWN = dict(zip(NAMES, (8.0, 3, 7, 4.0, 0.25, 0.5, 64.0), strict=True))


def values(scale: Any) -> dict[str, float]:
    return {name: float(getattr(scale, name)) for name in NAMES}


def history(scale: DynamicLossScale, finite: list[bool]) -> list[tuple[float, int]]:
    """(S, growth tracker) after each step, through one scan."""

    def step(scale: DynamicLossScale, finite: jax.Array) -> tuple[DynamicLossScale, tuple[Any, Any]]:
        scale = scale.adjust(finite)
        return scale, (scale.loss_scale, scale.growth_tracker)

    scales, trackers = jax.jit(lambda scale, finite: jax.lax.scan(step, scale, finite)[1])(scale, jnp.array(finite))
    return list(zip(scales.tolist(), trackers.tolist(), strict=True))


# Each is (options, found_inf of each step, S and growth tracker after each step) as _amp_update_scale_ of torch
# computes them: found_inf backs off and resets; otherwise the tracker is incremented *before* it is compared.
GRAD_SCALER = {
    "grows after exactly growth_interval steps": (
        {"growth_interval": 3},
        "......",
        [(8, 1), (8, 2), (16, 0), (16, 1), (16, 2), (32, 0)],
    ),
    "grows on every step": ({"growth_interval": 1}, "...", [(16, 0), (32, 0), (64, 0)]),
    "an overflow resets the tracker": (
        {"growth_interval": 3},
        "..x...",
        [(8, 1), (8, 2), (4, 0), (4, 1), (4, 2), (8, 0)],
    ),
    "an overflow on what would be the step of growth": (
        {"growth_interval": 2},
        ".x..x",
        [(8, 1), (4, 0), (4, 1), (8, 0), (4, 0)],
    ),
    "overflows in a row": ({"growth_interval": 2}, "xxx", [(4, 0), (2, 0), (1, 0)]),
    "other factors": (
        {"growth_interval": 2, "growth_factor": 3, "backoff_factor": 0.25},
        "..x.",
        [(8, 1), (24, 0), (6, 0), (6, 1)],
    ),
    "a tracker that has counted already": ({"growth_interval": 3, "growth_tracker": 2}, "..", [(16, 0), (16, 1)]),
    "the largest power of two of float32": (
        {"loss_scale": 2.0**126, "growth_interval": 1},
        "..x",
        [(2.0**127, 0), (2.0**127, 0), (2.0**126, 0)],
    ),
}


@pytest.mark.parametrize("case", GRAD_SCALER)
def test_each_step_is_that_of_torch(case: str) -> None:
    options, steps, expected = GRAD_SCALER[case]
    assert history(DynamicLossScale(**{"loss_scale": 8.0, **options}), [step == "." for step in steps]) == expected


def test_the_defaults_are_those_of_torch() -> None:
    assert values(DynamicLossScale()) == {
        "loss_scale": 65536,
        "growth_tracker": 0,
        "growth_interval": 2000,
        "growth_factor": 2,
        "backoff_factor": 0.5,
        "floor": 2.0**-14,
        "ceiling": 2.0**127,
    }


def test_a_long_random_run_is_that_of_torch() -> None:
    finite = np.random.default_rng(0).random(300) > 0.15
    scale, tracker, expected = np.float32(1024), 0, []
    for ok in finite:
        if not ok:
            scale, tracker = np.float32(scale * 0.5), 0
        elif tracker + 1 == 5:
            scale, tracker = np.float32(scale * 2.0), 0
        else:
            tracker += 1
        expected.append((float(scale), tracker))
    assert history(DynamicLossScale(1024.0, growth_interval=5), finite.tolist()) == expected


def test_it_stays_between_floor_and_ceiling_and_comes_back() -> None:
    scale = DynamicLossScale(4.0, growth_interval=1, floor=1.0, ceiling=10.0)
    steps = [False, False, False, False, True, True, True, True, True, False]
    assert [s for s, _ in history(scale, steps)] == [2, 1, 1, 1, 2, 4, 8, 10, 10, 5]


def test_the_scale_recovers_from_any_number_of_bad_batches() -> None:
    """Without a floor it would be 0 after so many, and with float32's smallest number of no use."""
    *_, (last, _) = history(DynamicLossScale(), [False] * 400)
    assert last == 2.0**-14
    assert history(DynamicLossScale(loss_scale=last, growth_interval=1), [True]) == [(2 * last, 0)]


def test_an_interval_that_was_made_shorter_is_not_missed() -> None:
    scale = dataclasses.replace(DynamicLossScale(8.0, growth_tracker=50), growth_interval=10)
    assert history(scale, [True, True]) == [(16, 0), (16, 1)]


def test_every_field_is_a_leaf_and_none_is_lost() -> None:
    scale = DynamicLossScale(**OWN)
    for rebuilt in (
        jax.tree.map(lambda leaf: leaf, scale),
        jax.jit(lambda scale: scale)(scale),
        jax.tree.map(lambda *leaves: leaves[0], scale, DynamicLossScale()),
        select_tree(jnp.array(False), DynamicLossScale(), scale),
        jax.tree.unflatten(jax.tree.structure(DynamicLossScale()), jax.tree.leaves(scale)),
        dataclasses.replace(scale),
    ):
        assert isinstance(rebuilt, DynamicLossScale) and values(rebuilt) == OWN
    after = scale.adjust(jnp.array(True))
    assert values(after) == {**OWN, "growth_tracker": 4}
    paths = [jax.tree_util.keystr(path) for path, _ in jax.tree_util.tree_leaves_with_path(scale)]
    assert paths == [f".{name}" for name in NAMES]


def test_rebuilding_a_tree_checks_nothing() -> None:
    """JAX puts axes, shardings and placeholders into trees."""
    axes = jax.tree.map(lambda _: 0, DynamicLossScale())
    stacked = jax.tree.map(lambda leaf: jnp.stack([leaf, leaf]), DynamicLossScale(8.0, growth_interval=1))
    after = jax.vmap(DynamicLossScale.adjust, in_axes=(axes, 0))(stacked, jnp.array([True, False]))
    assert after.loss_scale.tolist() == [16, 4] and after.growth_interval.tolist() == [1, 1]


def test_dtypes_do_not_drift() -> None:
    """Whatever numbers it is made of: a step gives what it takes, so nothing compiles twice and scans may carry it."""
    for scale in (
        DynamicLossScale(),
        DynamicLossScale(jnp.float16(2**15), np.int64(0), growth_factor=2, floor=np.float64(1)),
        StaticLossScale(128),
        NoLossScale(),
    ):
        assert jax.typeof(getattr(scale, "loss_scale", jnp.float32(0))).dtype == jnp.float32
        after = jax.eval_shape(lambda scale: scale.adjust(jnp.array(True)), scale)
        assert jax.tree.map(lambda leaf: leaf.weak_type, after) == jax.tree.map(lambda leaf: leaf.weak_type, scale)
        assert jax.tree.map(jnp.result_type, after) == jax.tree.map(jnp.result_type, scale)


def test_it_survives_orbax(tmp_path: Path) -> None:
    scale = DynamicLossScale(**OWN)
    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(tmp_path / "state", {"scale": scale, "step": jnp.array(5)})
        checkpointer.wait_until_finished()
        like = {"scale": DynamicLossScale(), "step": jnp.array(0)}
        restored = checkpointer.restore(tmp_path / "state", like)["scale"]
        unlike = checkpointer.restore(tmp_path / "state")["scale"]
    assert isinstance(restored, DynamicLossScale) and values(restored) == OWN
    assert values(DynamicLossScale(**unlike)) == OWN
    assert values(restored.adjust(jnp.array(False))) == {**OWN, "loss_scale": 2, "growth_tracker": 0}


def test_losses_are_scaled_and_gradients_unscaled_in_float32() -> None:
    for scale in (DynamicLossScale(2.0**16), StaticLossScale(2.0**16)):
        loss = scale.scale(jnp.float16(3))
        assert loss.dtype == jnp.float32 and loss == 3 * 2**16
        grads = {"low": jnp.full(2, 2.0**-10, jnp.float16), "count": jnp.arange(2), "high": jnp.ones(())}
        unscaled = scale.unscale(grads)
        # 2^-26 is 0 in float16.
        assert unscaled["low"].dtype == jnp.float32 and unscaled["low"].tolist() == [2.0**-26] * 2
        assert unscaled["count"] is grads["count"] and unscaled["high"] == 2.0**-16
    # 1/S would be a subnormal number, which is flushed to zero.
    assert DynamicLossScale(2.0**127).unscale(jnp.float32(2.0**127)) == 1
    assert NoLossScale().scale(loss) is loss and NoLossScale().unscale(grads) is grads


REFUSED: dict[str, dict[str, Any]] = {
    "0 < floor <= loss_scale <= ceiling": {"loss_scale": 0.0},
    "got 2.0, 1.0, 8.0": {"loss_scale": 1.0, "floor": 2.0, "ceiling": 8.0},
    "all finite, and got .*inf": {"ceiling": np.inf},
    "growth_interval >= 1, and got 0": {"growth_interval": 0},
    "growth_interval must be an integer, and got 2.5": {"growth_interval": 2.5},
    "growth_factor > 1, and got 0.5": {"growth_factor": 0.5},
    "0 < backoff_factor < 1, and got 2": {"backoff_factor": 2.0},
    "growth_tracker >= 0": {"growth_tracker": -1},
    r"loss_scale must be a scalar, and has shape \(2,\)": {"loss_scale": jnp.ones(2)},
}


@pytest.mark.once
@pytest.mark.parametrize("message", REFUSED)
def test_what_could_not_work_is_refused(message: str) -> None:
    with pytest.raises(LossScaleError, match=message):
        DynamicLossScale(**REFUSED[message])


@pytest.mark.once
def test_a_static_scale_is_positive() -> None:
    with pytest.raises(LossScaleError, match="positive finite number, and got 0"):
        StaticLossScale(0.0)


@pytest.mark.once
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_one_bad_number_is_enough(bad: float) -> None:
    good = {"w": jnp.ones((2, 2), jnp.bfloat16), "n": jnp.arange(3), "key": jax.random.key(0), "none": None}
    float0 = np.zeros(2, jax.dtypes.float0)
    assert all_finite({**good, "float0": float0}) and all_finite({}) and all_finite({"n": jnp.arange(3)})
    assert not all_finite({**good, "b": jnp.array([0, bad], jnp.float16)})
    assert not all_finite({**good, "c": jnp.array([1j * bad])})


@pytest.mark.once
def test_nothing_gets_through_from_the_side_that_is_not_selected() -> None:
    new = {"w": jnp.full(2, jnp.nan), "count": 7, "key": jax.random.key(1)}
    old = {"w": jnp.ones(2), "count": 6, "key": jax.random.key(0)}
    taken = select_tree(jnp.array(False), new, old)
    assert taken["w"].tolist() == [1, 1] and taken["count"] == 6
    assert (jax.random.key_data(taken["key"]) == jax.random.key_data(old["key"])).all()
    assert select_tree(jnp.array(True), new, old)["count"] == 7
    with pytest.raises(ZenithError, match=r"boolean scalar, and got bool\[2\]"):
        select_tree(jnp.array([True, False]), new, old)
    with pytest.raises(ZenithError, match=r"boolean scalar, and got int32\[\]"):
        select_tree(jnp.array(1), new, old)
