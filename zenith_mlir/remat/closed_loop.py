"""Holding the model of memory to what XLA allocates: compile, read, correct, at most three times."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from zenith_mlir.context import PassContext
from zenith_mlir.ir.composites import zenith_composites
from zenith_mlir.module import Module
from zenith_mlir.remat.insertion import Insertion
from zenith_mlir.remat.solve import Infeasible

__all__ = ["Allocation", "Goal", "Saving", "Tried", "search", "temporary_bytes"]

TRIES = 3


@dataclass(frozen=True)
class Tried:
    """A decision and the temporary bytes of the compiled result."""

    insertion: Insertion
    measured: int


class Goal(Protocol):
    """What a result has to measure, and which budget of the model to try after one; `is_measured` if nothing else
    counts.
    """

    @property
    def is_measured(self) -> bool: ...

    def first_budget(self, budget: int, peak: int, measured: int) -> int:
        """For the model, which says of the program as it is `peak` where XLA allocates `measured`."""

    def accepts(self, tried: Tried) -> bool: ...

    def next_budget(self, tried: Tried) -> int | None:
        """None if no other budget is worth a try."""


@dataclass(frozen=True)
class Allocation:
    """Temporaries of at most `bytes`; where they turn out much smaller, less is recomputed."""

    bytes: int
    is_measured = True

    def first_budget(self, budget: int, peak: int, measured: int) -> int:
        return budget if budget < peak else self._corrected(peak, measured)

    def accepts(self, tried: Tried) -> bool:
        return tried.measured <= self.bytes

    def next_budget(self, tried: Tried) -> int | None:
        if 0.9 * self.bytes <= tried.measured <= self.bytes:
            return None
        return self._corrected(tried.insertion.peak, tried.measured)

    def _corrected(self, peak: int, measured: int) -> int:
        """The budget for the model where what it says needs `peak` bytes measures `measured`: both may differ by a
        factor, and where too much is allocated, by something that the model does not know of.
        """
        scaled = self.bytes * peak // max(measured, 1)
        return scaled if measured <= self.bytes else min(scaled, max(0, peak + self.bytes - measured))


@dataclass(frozen=True)
class Saving:
    """Temporaries smaller than `before`, where the model's own budget says how much."""

    before: int
    is_measured = False

    def first_budget(self, budget: int, peak: int, measured: int) -> int:
        return budget

    def accepts(self, tried: Tried) -> bool:
        return tried.measured < self.before

    def next_budget(self, tried: Tried) -> int | None:
        return None if self.accepts(tried) else tried.insertion.peak * 9 // 10


def search(
    goal: Goal, budget: int, solve: Callable[[int], Insertion], measure: Callable[[Insertion], int]
) -> list[Tried]:
    """Decisions for `budget` bytes of the model and for the budgets that measurements ask for.

    Raises:
        Infeasible: if the model has no plan for the first budget, and the goal is not in bytes that XLA allocates.
    """
    tried: list[Tried] = []
    while len(tried) < TRIES:
        try:
            insertion = solve(budget)
        except Infeasible as infeasible:
            if not goal.is_measured:
                if tried:
                    break
                raise
            # What XLA allocates may be less than the model says; the very least leaves its scheduler no room.
            insertion = _least(infeasible.minimum if tried else infeasible.minimum * 11 // 10, solve)
        if any(insertion.peak == earlier.insertion.peak for earlier in tried):
            break
        tried.append(Tried(insertion, measure(insertion)))
        following = goal.next_budget(tried[-1])
        if following is None:
            break
        budget = following
    return tried


def _least(budget: int, solve: Callable[[int], Insertion]) -> Insertion:
    """The decision for `budget`, or for the least budget above that there is one for."""
    try:
        return solve(budget)
    except Infeasible as infeasible:
        return _least(max(infeasible.minimum, budget + 1), solve)


def temporary_bytes(module: Module, ctx: PassContext) -> int | None:
    """What XLA allocates for the temporaries of `module` with its kernels on the target; None where it cannot be
    compiled here.
    """
    from zenith_mlir.ir.executable import ExecutableError
    from zenith_mlir.passes.lower_kernels import LowerKernels

    copy = module.clone()
    if zenith_composites(copy.operation):
        LowerKernels().run(copy, dataclasses.replace(ctx, pass_name=LowerKernels.name, remarks=[]))
    try:
        executable = copy.compile(ctx.target)
    except ExecutableError:
        return None
    return int(executable.memory_analysis().temp_size_in_bytes)
