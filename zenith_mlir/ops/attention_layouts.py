"""The arguments of `attention` as axes, layouts and steps of a zenith.attention."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np

from zenith_mlir.dialects.layout import Layout
from zenith_mlir.ops.arguments import check, check_shape, integers

OP = "attention"


def layouts_of(q: Sequence[int], k: Sequence[int], v: Sequence[int]) -> tuple[dict[str, int], list[Layout]]:
    """Sizes of the axes; the layouts of query, key, value and result."""
    dims = "[B, T, N, H] or [T, N, H]"
    check(
        OP,
        len(q) in (3, 4),
        f"query has shape {list(q)}, expected {dims}; add an axis of heads with query[:, :, None]",
    )
    rank = len(q)
    wanted = "[B, S, K, H]" if rank == 4 else "[S, K, H]"
    for name, shape in (("key", k), ("value", v)):
        fits = len(shape) == rank and (rank == 3 or shape[0] == q[0])
        check(OP, fits, f"{name} has shape {list(shape)}, expected {wanted} as query has {list(q)}")
    check(OP, k[-1] == q[-1], f"key has {k[-1]} features and query {q[-1]}, expected as many")
    check(OP, k[-3:-1] == v[-3:-1], f"value has shape {list(v)}, expected as many rows and heads as key, {list(k)}")
    heads, shared = q[-2], k[-2]
    check(
        OP,
        shared > 0 and heads % shared == 0,
        f"query has {heads} heads and key {shared}, expected a multiple; repeat keys and values with jnp.repeat",
    )
    axes = {"t": q[-3], "s": k[-3], "h": shared, "d": q[-1], "e": v[-1]}
    if rank == 4:
        axes["b"] = q[0]
    if heads != shared:
        axes["g"] = heads // shared
    batch = (("b",),) if rank == 4 else ()
    all_heads = ("h", "g") if heads != shared else ("h",)
    dims_of = [
        (("t",), all_heads, ("d",)),
        (("s",), ("h",), ("d",)),
        (("s",), ("h",), ("e",)),
        (("t",), all_heads, ("e",)),
    ]
    return dict(sorted(axes.items())), [Layout((*batch, *dims)) for dims in dims_of]


def of_logits(name: str, array: Any, axes: dict[str, int], layouts: Sequence[Layout]) -> tuple[Any, Layout]:
    """`array`, which broadcasts to [B, N, T, S], and its layout."""
    *batch, rows, heads, _ = layouts[0].dims
    full = Layout((*batch, heads, rows, ("s",)))
    wanted = full.shape(axes)
    shape = tuple(array.shape)
    if len(shape) == len(wanted) + 1 and shape[0] == 1:  # as jax.nn has it for arrays without a batch
        array, shape = array[0], shape[1:]
    missing = len(wanted) - len(shape)
    fits = missing >= 0 and all(size in (1, of) for size, of in zip(shape, wanted[missing:], strict=True))
    what = "[B, N, T, S]" if batch else "[N, T, S]"
    check(OP, fits, f"{name} has shape {list(array.shape)}, expected one that broadcasts to {what} = {list(wanted)}")
    dims = full.dims[missing:]
    return array, Layout(tuple(() if size == 1 else dim for size, dim in zip(shape, dims, strict=True)))


def inside(name: str, lengths: Any, axes: dict[str, int], axis: str) -> Any:
    """Booleans [B, rows]: whether a row is one of those that count."""
    check(OP, "b" in axes, f"{name} is given and query has no batch, expected [B, T, N, H]")
    array = integers(OP, name, lengths)
    check_shape(OP, name, array, (axes["b"],), "one length an element of the batch")
    return jnp.arange(axes[axis]) < array[:, None]


def band(window: int | tuple[int, int] | None, is_causal: bool) -> tuple[int | None, int | None]:
    """Bounds of column - row."""
    if window is None:
        return None, 0 if is_causal else None
    left, right = (window, window) if isinstance(window, int) else window
    return -left, min(right, 0) if is_causal else right


def rounded(number: float, dtype: Any) -> float:
    """`number` as it is in `dtype`."""
    return float(np.asarray(number, dtype))
