"""Training steps under a policy and a loss scale."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp

from zenith_mlir.precision.loss_scale import LossScale
from zenith_mlir.precision.policy import Policy
from zenith_mlir.precision.trees import all_finite, select_tree

__all__ = ["Gradients", "TrainStep", "train_step", "value_and_grad"]


class Optimizer(Protocol):
    """An Optax transformation."""

    @property
    def update(self) -> Callable[..., tuple[Any, Any]]: ...


class Gradients(NamedTuple):
    """What `value_and_grad` finds.

    value: the loss, unscaled; (loss, auxiliary results) with `has_aux`.
    grads: unscaled, each in the dtype of what it is the gradient of.
    finite: whether all of them are finite, a boolean scalar.
    """

    value: Any
    grads: Any
    finite: jax.Array


class TrainStep(NamedTuple):
    """The state after a step. `value` and `finite` as in `Gradients`; where `finite` is False the step was skipped."""

    params: Any
    opt_state: Any
    loss_scale: Any
    value: Any
    finite: jax.Array


def value_and_grad(
    loss: Callable[..., Any],
    policy: Policy | None,
    loss_scale: LossScale,
    *,
    argnums: int | Sequence[int] = 0,
    has_aux: bool = False,
    axis_name: str | Sequence[str] | None = None,
    reduce: Callable[[Any], Any] | None = None,
) -> Callable[..., Gradients]:
    """`jax.value_and_grad` of the scaled loss, with gradients that are unscaled in float32.

    Args:
        loss: gives a scalar, or (scalar, anything) with `has_aux`. What it is differentiated by is a pytree of
            floating-point arrays, as for `jax.grad`: parameters of Linen, a state that `nnx.split` gives, the arrays of
            `equinox.partition`.
        policy: `loss` is wrapped by it, all of it: targets and sums over the batch are of `compute_dtype` too unless
            `loss` casts, and float16 has no cotangent above 65504, which then limits the scale. None where the model is
            wrapped and the loss around it stays in float32, which is the safer of the two.
        loss_scale: of this step. Inside of `jax.jit` it is an argument of the step, like parameters.
        argnums, has_aux: as of `jax.value_and_grad`.
        axis_name: axes of pmap or shard_map whose devices must agree on `finite`. It averages nothing.
        reduce: what is done to the unscaled gradients before they are looked at, while they are still in float32,
            such as `lambda grads: jax.lax.pmean(grads, "batch")` under pmap.
    """
    inner = loss if policy is None else policy.wrap(loss)

    def scaled(*args: Any, **kwargs: Any) -> tuple[Any, Any]:
        value = inner(*args, **kwargs)
        # The loss itself comes back beside the scaled one, which may well be infinite.
        return loss_scale.scale(value[0] if has_aux else value), value

    differentiate = jax.value_and_grad(scaled, argnums, has_aux=True)

    def unscaled(*args: Any, **kwargs: Any) -> Gradients:
        (_, value), grads = differentiate(*args, **kwargs)
        dtypes = jax.tree.map(jnp.result_type, grads)
        grads = loss_scale.unscale(grads)
        if reduce is not None:
            grads = reduce(grads)
        # Looked at last: what float32 holds may be too large for parameters in float16.
        grads = jax.tree.map(lambda grad, dtype: grad.astype(dtype), grads, dtypes)
        return Gradients(value, grads, all_finite(grads, axis_name))

    return unscaled


def train_step(
    loss: Callable[..., Any],
    optimizer: Optimizer,
    policy: Policy | None = None,
    *,
    has_aux: bool = False,
    axis_name: str | Sequence[str] | None = None,
    reduce: Callable[[Any], Any] | None = None,
) -> Callable[..., TrainStep]:
    """A training step that leaves parameters and optimizer state untouched where gradients are not finite.

    Returns:
        `step(params, opt_state, loss_scale, *batch) -> TrainStep`, to be put under `jax.jit`, scan, pmap or shard_map.
        The optimizer sees unscaled gradients, so `optax.clip_by_global_norm` in it clips what it says. Arguments as
        for `value_and_grad`; the loss is called as `loss(params, *batch)`.
    """

    def step(params: Any, opt_state: Any, loss_scale: Any, *batch: Any) -> TrainStep:
        gradient = value_and_grad(loss, policy, loss_scale, has_aux=has_aux, axis_name=axis_name, reduce=reduce)
        value, grads, finite = gradient(params, *batch)
        updates, next_state = optimizer.update(grads, opt_state, params)
        next_params = jax.tree.map(lambda param, update: (param + update).astype(param.dtype), params, updates)
        params, opt_state = select_tree(finite, (next_params, next_state), (params, opt_state))
        return TrainStep(params, opt_state, loss_scale.adjust(finite), value, finite)

    return step
