"""vmap of the ops: one more axis in front of the rows, or in the layouts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax.numpy as jnp

from zenith_mlir.dialects.layout import Layout
from zenith_mlir.ops.primitive import Batched, Dims


def size_of(operands: Sequence[Any], dims: Dims) -> int:
    """How many vmap maps over."""
    return next(int(operand.shape[dim]) for operand, dim in zip(operands, dims, strict=True) if dim is not None)


def moved(operand: Any, dim: int | None, size: int, to: int = 0) -> Any:
    """`operand` with the mapped axis at `to`; repeated along it where it has none."""
    if dim is not None:
        return jnp.moveaxis(operand, dim, to)
    wide = jnp.expand_dims(operand, to)
    return jnp.broadcast_to(wide, (*wide.shape[:to], size, *wide.shape[to + 1 :]))


def rows(kinds: Callable[[Any, int], tuple[Sequence[bool], Sequence[bool]]]) -> Batched:
    """For ops on rows, however many axes there are of them. `kinds` says of the spec and the number of operands which
    operands and which results have the rows' axes. The others (a weight, the gradient of one) belong to all rows, so
    there is no such op where one of them is mapped.
    """

    def batched(spec: Any, operands: Sequence[Any], dims: Dims) -> tuple[Any, list[Any], list[int]] | None:
        by_row, results_by_row = kinds(spec, len(operands))
        whole = [dim for dim, is_by_row in zip(dims, by_row, strict=True) if not is_by_row]
        if not all(results_by_row) or any(dim is not None for dim in whole):
            return None
        size = size_of(operands, dims)
        arranged = [
            moved(operand, dim, size) if is_by_row else operand
            for operand, dim, is_by_row in zip(operands, dims, by_row, strict=True)
        ]
        return spec, arranged, [0] * len(results_by_row)

    return batched


def fresh(axes: dict[str, int]) -> str:
    """A name for one more axis that is shared."""
    return next(name for name in ("b", *(f"b{i}" for i in range(1, len(axes) + 2))) if name not in axes)


def widened(axes: dict[str, int], name: str, size: int) -> dict[str, int]:
    """`axes` and one more, in the order of the names, as attributes are read."""
    return dict(sorted((axes | {name: size}).items()))


def before(name: str, layout: Layout, is_mapped: bool = True) -> Layout:
    """`layout` with the axis `name` in front, where the operand is mapped."""
    return Layout(((name,), *layout.dims)) if is_mapped else layout
