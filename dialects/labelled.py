"""Arrays whose dimensions are named by layouts: what the reference formulas of the ops are written in."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from zenith_mlir.dialects.layout import Layout

if TYPE_CHECKING:
    import jax

Sizes = Mapping[str, int]


def spread(value: jax.Array, layout: Layout, sizes: Sizes, order: Sequence[str]) -> jax.Array:
    """`value` with one dimension for each axis of `order`, of size one where it has none."""
    factored = value.reshape([sizes[axis] for axis in layout.axes])
    present = [axis for axis in order if axis in layout.axes]
    moved = factored.transpose([layout.axes.index(axis) for axis in present])
    return moved.reshape([sizes[axis] if axis in present else 1 for axis in order])


def einsum(
    operands: Sequence[tuple[jax.Array, Layout]],
    sizes: Sizes,
    out: Sequence[str],
    dtype: Any,
    exact: bool = True,
    partition: Mapping[str, Any] | None = None,
) -> jax.Array:
    """Σ over the axes that `out` lacks of the product of `operands`, in `dtype`; repeated along axes that only `out`
    has. Unless `exact`, narrower operands are multiplied as they are, with the precision that JAX has by default.
    Where axes of meshes are explicit, `partition` says over which of them each axis of the result is split.
    """
    import jax
    import jax.numpy as jnp

    number = {axis: i for i, axis in enumerate(sizes)}
    arguments: list[Any] = []
    for value, layout in operands:
        factored = value.reshape([sizes[axis] for axis in layout.axes])
        arguments += [factored.astype(dtype) if exact else factored, [number[axis] for axis in layout.axes]]
    present = {axis for _, layout in operands for axis in layout.axes}
    kept = [axis for axis in out if axis in present]
    sharding = None if partition is None else jax.P(*(partition.get(axis) for axis in kept))
    result = jnp.einsum(
        *arguments,
        [number[axis] for axis in kept],
        precision="highest" if exact else None,
        preferred_element_type=dtype,
        out_sharding=sharding,
    )
    wide = result.reshape([sizes[axis] if axis in present else 1 for axis in out])
    return jnp.broadcast_to(wide, [sizes[axis] for axis in out])


def plain(axes: Sequence[str]) -> Layout:
    """The layout with one dimension for each of `axes`."""
    return Layout(tuple((axis,) for axis in axes))
