"""One decision over a pytree, and over all devices."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np

from zenith_mlir.errors import ZenithError

__all__ = ["all_finite", "is_inexact", "select_tree"]

Tree = TypeVar("Tree")


def all_finite(tree: Any, axis_name: str | Sequence[str] | None = None) -> jax.Array:
    """Whether no number in `tree` is infinite or NaN, as a boolean scalar; an empty tree is finite.

    Under `jax.jit` with sharded arrays this is about all of each array. Under `jax.pmap` and `jax.shard_map` each
    device sees its own part: `axis_name` names the mesh axes whose devices are to agree, and one infinity on any of
    them is False on all.
    """
    leaves = [jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(tree) if is_inexact(leaf)]
    finite = jnp.stack(leaves).all() if leaves else jnp.array(True)
    if axis_name is None:
        return finite
    # A minimum of integers: collectives over booleans are not defined on every platform.
    axes = axis_name if isinstance(axis_name, str) else tuple(axis_name)
    everywhere: jax.Array = jax.lax.pmin(finite.astype(jnp.int32), axes)
    return everywhere > 0


def select_tree(condition: jax.Array, on_true: Tree, on_false: Tree) -> Tree:
    """`on_true` or `on_false`, trees of one structure, shapes and dtypes, as the boolean scalar `condition` says.

    Both are computed; nothing of the one that is not taken gets through, NaN included.

    Raises:
        ZenithError: where `condition` is no boolean scalar.
    """
    if jnp.shape(condition) != () or jnp.result_type(condition) != np.bool_:
        raise ZenithError(
            f"select_tree needs a boolean scalar, and got {jnp.result_type(condition)}{list(jnp.shape(condition))}: "
            "reduce it first, as all_finite does"
        )
    taken: Tree = jax.tree.map(
        lambda new, old: jax.lax.select(condition, jnp.asarray(new), jnp.asarray(old)), on_true, on_false
    )
    return taken


def is_inexact(leaf: Any) -> bool:
    """Whether a leaf holds floating-point or complex numbers; the float0 of gradients by integers is neither."""
    dtype = leaf.dtype if hasattr(leaf, "dtype") else jnp.result_type(leaf)
    return bool(jnp.issubdtype(dtype, jnp.inexact))
