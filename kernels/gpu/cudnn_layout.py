"""How operands of any layout become the four dimensions that cuDNN's attention takes, copying as little as possible."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from zenith_mlir.dialects.attention import AttentionSpec
from zenith_mlir.dialects.labelled import spread
from zenith_mlir.dialects.layout import Layout

if TYPE_CHECKING:
    import jax


@dataclass(frozen=True)
class Arrangement:
    """Which parallel axes are the batch and which the heads, and whether heads stand before the sequence.

    `groups` are axes of the queries alone, the minor part of their heads. Size 1 stands for axes that are not there.
    """

    spec: AttentionSpec
    batch: tuple[str, ...]
    heads: tuple[str, ...]
    groups: tuple[str, ...]
    heads_first: bool

    def four(self, sequence: str, feature: str, groups: bool) -> list[tuple[str, ...]]:
        """The axes of the four dimensions."""
        heads = (*self.heads, *(self.groups if groups else ()))
        inner = [heads, (sequence,)] if self.heads_first else [(sequence,), heads]
        return [self.batch, *inner, (feature,)]

    def queries(self) -> list[tuple[str, ...]]:
        return self.four("t", self.spec.contracted[0], True)

    def keys(self) -> list[tuple[str, ...]]:
        return self.four("s", self.spec.contracted[0], False)

    def values(self) -> list[tuple[str, ...]]:
        return self.four("s", "e", False)

    def results(self) -> list[tuple[str, ...]]:
        return self.four("t", "e", True)

    def row_statistics(self) -> list[tuple[str, ...]]:
        """The dimensions of the log-sum-exp, whatever the layout."""
        return [self.batch, (*self.heads, *self.groups), ("t",)]

    def bias(self, axes: Collection[str]) -> list[tuple[str, ...]]:
        """The dimensions of a bias that varies over `axes`: all of the batch or none, all heads or none."""
        batch, heads, rows = self.row_statistics()
        return [batch if set(batch) & set(axes) else (), heads if set(heads) & set(axes) else (), rows, ("s",)]

    def arrange(self, value: jax.Array, layout: Layout, dims: Sequence[tuple[str, ...]]) -> jax.Array:
        """`value` with the dimensions `dims`, repeated along axes that it lacks."""
        import jax.numpy as jnp

        order = [axis for dim in dims for axis in dim]
        wide = jnp.broadcast_to(spread(value, layout, self.spec.axes, order), [self.spec.size(axis) for axis in order])
        return wide.reshape(self.shape(dims))

    def shape(self, dims: Sequence[tuple[str, ...]]) -> tuple[int, ...]:
        """The sizes of `dims`."""
        return tuple(math.prod(self.spec.size(axis) for axis in dim) for dim in dims)

    def layout(self, dims: Sequence[tuple[str, ...]]) -> Layout:
        """`dims` as a layout: without axes that the program does not have."""
        return Layout(tuple(tuple(axis for axis in dim if axis in self.spec.axes) for dim in dims))

    def copied(self, biased: Collection[str] | None) -> int:
        """How many elements have to be moved before and after the call. `biased`: the axes of the bias, if any."""
        spec = self.spec
        moves = [
            (spec.q, self.queries()),
            (spec.k, self.keys()),
            (spec.v, self.values()),
            (spec.out, self.results()),
        ]
        total = sum(math.prod(self.shape(dims)) for layout, dims in moves if not self._in_place(layout, dims))
        return total if biased is None else total + math.prod(self.shape(self.bias(biased)))

    def _in_place(self, layout: Layout, dims: Sequence[tuple[str, ...]]) -> bool:
        wanted = [axis for dim in dims for axis in dim if self.spec.size(axis) > 1]
        return [axis for axis in layout.axes if self.spec.size(axis) > 1] == wanted


def choose(spec: AttentionSpec, biased: Collection[str] | None, apart: Collection[str] = ()) -> Arrangement:
    """The arrangement that copies least; between equals, one head axis and batch before sequence before heads.

    `biased`: the axes over which the bias varies, None without one. `apart`: axes that the gradients of keys or values
    must keep, so that keys and values are repeated along them.
    """
    return min(_candidates(spec, apart), key=lambda found: (found.copied(biased), _oddity(found)))


def _candidates(spec: AttentionSpec, apart: Collection[str]) -> Iterator[Arrangement]:
    keyed = {*spec.k.axes, *spec.v.axes, *apart}
    shared = [axis for axis in spec.parallel if axis in keyed]
    for layout in (spec.q, spec.k, spec.v, spec.out):
        order = _ordered(shared, layout)
        groups = _ordered([axis for axis in spec.parallel if axis not in keyed], layout)
        for split in range(len(order) + 1):
            for heads_first in (False, True):
                yield Arrangement(spec, order[:split], order[split:], groups, heads_first)


def _ordered(axes: Sequence[str], layout: Layout) -> tuple[str, ...]:
    """`axes` in the order of `layout`, those that it lacks first."""
    return (*(a for a in axes if a not in layout.axes), *(a for a in layout.axes if a in axes))


def _oddity(found: Arrangement) -> tuple[int, bool]:
    return abs(len(found.heads) - 1), found.heads_first
