"""What the polynomials of a cross-entropy are made of, beside the logits x themselves and sums along their rows."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Self

from jaxlib.mlir import ir

from zenith_mlir.match.algebra.polynomial import Atom
from zenith_mlir.match.axes import Axis, AxisSpace, View, axes_of


@dataclass(frozen=True)
class _Placed(Atom):
    """`view` says what it varies along."""

    view: View

    def axes(self, space: AxisSpace) -> frozenset[Axis]:
        return frozenset(axes_of(space.resolve_view(self.view)))

    def mapped(self, view_of: Callable[[View], View]) -> Self:
        return replace(self, view=view_of(self.view))


@dataclass(frozen=True)
class Exponential(_Placed):
    """exp(x - m)."""


@dataclass(frozen=True)
class Maximum(_Placed):
    """m, the maximum of a row of x, or the 0 that stands in for an infinite one."""


@dataclass(frozen=True)
class LogSum(_Placed):
    """log Σ exp(x - m) of a row."""


@dataclass(frozen=True)
class Indicator(_Placed):
    """1 where the column is the label's, else 0. `outside` says, as zenith.cross_entropy does, what other labels mean:
    with "fill" negative ones count from the end, with "zero" there is no column for them.
    """

    labels: ir.Value
    column: Axis
    outside: str

    @property
    def is_boolean(self) -> bool:
        return True

    def axes(self, space: AxisSpace) -> frozenset[Axis]:
        return super().axes(space) | {self.column}
