"""Loss scales: what gradients are multiplied by so that float16 can hold them.

    loss' = S loss,  gradients = gradients' / S

`DynamicLossScale` looks for the largest S that makes nothing overflow (Micikevicius et al. 2018, "Mixed Precision
Training", section 3.2). It moves as torch.amp.GradScaler does.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from zenith_mlir.errors import ZenithError
from zenith_mlir.precision.trees import is_inexact

__all__ = ["DynamicLossScale", "LossScale", "LossScaleError", "NoLossScale", "StaticLossScale"]

Tree = TypeVar("Tree")
Class = TypeVar("Class", bound=type)


class LossScaleError(ZenithError):
    """A loss scale that could not work, such as one of zero or one that grows by a factor below one."""


class LossScale(Protocol):
    """What training needs of a loss scale."""

    @property
    def loss_scale(self) -> Any:
        """S, a float32 scalar."""

    def scale(self, loss: Any) -> Any:
        """`loss` times S, in float32 (or wider, if it is): a float16 loss times S would be infinite."""

    def unscale(self, grads: Tree) -> Tree:
        """The gradients of a scaled loss divided by S, in float32 (or wider, if they are).

        Before clipping, weight decay and whatever else looks at their size. Integers are left alone.
        """

    def adjust(self, grads_finite: jax.Array) -> Any:
        """The loss scale of the next step; `grads_finite` is a boolean scalar, the same on all devices."""


def _all_fields_are_leaves(cls: Class) -> Class:
    """Register a dataclass as a pytree whose every field is a leaf.

    None is static: checkpoints hold leaves only, and a tree rebuilt from leaves must not fall back on defaults. JAX
    rebuilds trees of anything (axes, shardings, placeholders), so rebuilding skips the checks of the constructor.
    """
    names = [field.name for field in dataclasses.fields(cls)]

    def flatten(scale: Any) -> tuple[tuple[tuple[jax.tree_util.GetAttrKey, Any], ...], None]:
        return tuple((jax.tree_util.GetAttrKey(name), getattr(scale, name)) for name in names), None

    def unflatten(_: None, leaves: Any) -> Any:
        scale: Any = object.__new__(cls)
        for name, leaf in zip(names, leaves, strict=True):
            object.__setattr__(scale, name, leaf)
        return scale

    jax.tree_util.register_pytree_with_keys(cls, flatten, unflatten)
    return cls


@_all_fields_are_leaves
@dataclass(frozen=True)
class DynamicLossScale:
    """A loss scale that grows while gradients are finite and shrinks when they are not.

        finite:      growth_tracker += 1; when it reaches growth_interval, S grows by growth_factor and it is 0 again
        not finite:  S shrinks by backoff_factor, growth_tracker = 0, and the step has to be skipped

    The defaults and every step are those of torch.amp.GradScaler as long as S stays between `floor` and `ceiling`.
    torch has no floor: bad batches in a row take its S to 0, from where it does not come back.

    A pytree of scalars, so it goes through jit, scan, pmap, shard_map and checkpoints as other state does; fields may
    be changed by `dataclasses.replace` without a new compilation. Each may be a number or a scalar array.

    Attributes:
        loss_scale: S, float32.
        growth_tracker: finite steps since S last changed, int32.
        growth_interval: finite steps in a row after which S grows, int32.
        growth_factor, backoff_factor: what S is multiplied by, float32.
        floor, ceiling: the limits of S, float32.

    Raises:
        LossScaleError: where the numbers could not work.
    """

    loss_scale: ArrayLike = 2.0**16
    growth_tracker: ArrayLike = 0
    growth_interval: ArrayLike = 2000
    growth_factor: ArrayLike = 2.0
    backoff_factor: ArrayLike = 0.5
    floor: ArrayLike = 2.0**-14
    ceiling: ArrayLike = 2.0**127

    def __post_init__(self) -> None:
        _become_scalars(self, integers=("growth_tracker", "growth_interval"))
        values = [getattr(self, field.name) for field in dataclasses.fields(self)]
        if any(isinstance(value, jax.core.Tracer) for value in values):
            return
        scale, tracker, interval, growth, backoff, floor, ceiling = (float(value) for value in values)
        limits = {
            f"0 < floor <= loss_scale <= ceiling, all finite, and got {floor}, {scale}, {ceiling}": (
                0 < floor <= scale <= ceiling < np.inf
            ),
            f"growth_interval >= 1, and got {interval:g}": interval >= 1,
            f"growth_tracker >= 0, and got {tracker:g}": tracker >= 0,
            f"a finite growth_factor > 1, and got {growth}": 1 < growth < np.inf,
            f"0 < backoff_factor < 1, and got {backoff}": 0 < backoff < 1,
        }
        broken = [limit for limit, holds in limits.items() if not holds]
        if broken:
            raise LossScaleError(f"DynamicLossScale needs {'; '.join(broken)}")

    def scale(self, loss: Any) -> Any:
        return _scaled(loss, self.loss_scale)

    def unscale(self, grads: Tree) -> Tree:
        return _unscaled(grads, self.loss_scale)

    def adjust(self, grads_finite: jax.Array) -> DynamicLossScale:
        steps = jnp.where(grads_finite, jnp.asarray(self.growth_tracker) + 1, 0)
        # Not ==: an interval that was made shorter may lie behind already.
        grows = steps >= self.growth_interval
        factor = jnp.where(grads_finite, jnp.where(grows, self.growth_factor, 1), self.backoff_factor)
        # A product beyond float32 is infinite, and becomes the ceiling.
        scale = jnp.clip(self.loss_scale * factor, self.floor, self.ceiling)
        return _with(self, loss_scale=scale, growth_tracker=jnp.where(grows, 0, steps))


@_all_fields_are_leaves
@dataclass(frozen=True)
class StaticLossScale:
    """A loss scale that stays as it is. Steps whose gradients are not finite are still to be skipped.

    Raises:
        LossScaleError: where it is not positive and finite.
    """

    loss_scale: ArrayLike

    def __post_init__(self) -> None:
        _become_scalars(self, integers=())
        if not isinstance(self.loss_scale, jax.core.Tracer) and not 0 < np.asarray(self.loss_scale) < np.inf:
            raise LossScaleError(f"StaticLossScale needs a positive finite number, and got {self.loss_scale}")

    def scale(self, loss: Any) -> Any:
        return _scaled(loss, self.loss_scale)

    def unscale(self, grads: Tree) -> Tree:
        return _unscaled(grads, self.loss_scale)

    def adjust(self, grads_finite: jax.Array) -> StaticLossScale:
        return self


@_all_fields_are_leaves
@dataclass(frozen=True)
class NoLossScale:
    """No loss scale, for float32 and bfloat16: losses and gradients stay as they are."""

    @property
    def loss_scale(self) -> jax.Array:
        return jnp.ones((), jnp.float32)

    def scale(self, loss: Any) -> Any:
        return loss

    def unscale(self, grads: Tree) -> Tree:
        return grads

    def adjust(self, grads_finite: jax.Array) -> NoLossScale:
        return self


def _scaled(loss: Any, scale: ArrayLike) -> Any:
    return jax.tree.map(lambda leaf: _wide(leaf) * scale, loss)


def _unscaled(grads: Tree, scale: ArrayLike) -> Tree:
    # Divided, not multiplied by 1/S: that is no number of float32 for every S, and may be flushed to zero.
    unscaled: Tree = jax.tree.map(lambda leaf: _wide(leaf) / scale if is_inexact(leaf) else leaf, grads)
    return unscaled


def _wide(leaf: ArrayLike) -> jax.Array:
    return jnp.asarray(leaf, jnp.promote_types(jnp.result_type(leaf), jnp.float32))


def _become_scalars(scale: Any, integers: tuple[str, ...]) -> None:
    """Give every field its dtype, whatever number it was given as: dtypes that drift recompile, and break scans."""
    for field in dataclasses.fields(scale):
        value, dtype = getattr(scale, field.name), jnp.int32 if field.name in integers else jnp.float32
        if jnp.shape(value) != ():
            raise LossScaleError(f"{field.name} must be a scalar, and has shape {jnp.shape(value)}")
        # float16 holds no scale above 65504, and integers must not be cut off.
        if dtype == jnp.int32 and not jnp.issubdtype(jnp.result_type(value), jnp.integer):
            raise LossScaleError(f"{field.name} must be an integer, and got {value}")
        object.__setattr__(scale, field.name, jnp.asarray(value, dtype))


def _with(scale: DynamicLossScale, **changed: jax.Array) -> DynamicLossScale:
    """`dataclasses.replace` without the checks, which would wait for the device on every step."""
    leaves = [changed.get(field.name, getattr(scale, field.name)) for field in dataclasses.fields(scale)]
    same: DynamicLossScale = jax.tree.unflatten(jax.tree.structure(scale), leaves)
    return same
