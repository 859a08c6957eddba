"""The values of the backward that wait at a point where something is recomputed.

XLA would fuse a sum of cotangents into each of its users, and keep everything that it is the sum of until the last of
them. Passing through a barrier it becomes one buffer.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import defaultdict

from jaxlib.mlir import ir

from zenith_mlir.remat.from_module import Program
from zenith_mlir.remat.kinds import FREE
from zenith_mlir.remat.schedule import Plan

__all__ = ["Cotangents"]


class Cotangents:
    """What waits while one goes through the backward of `program`, operation by operation."""

    def __init__(self, program: Program, plan: Plan) -> None:
        self._program = program
        self._flow, self._fused = program.flow, program.fused
        self._leads_to = _last_steps_reached(program)
        # When each operation of the forward is recomputed.
        self._recomputed: dict[int, list[int]] = defaultdict(list)
        for step, batch in zip(program.steps, plan.recompute, strict=False):
            for node in batch:
                self._recomputed[program.nodes[node]].append(step)
        self._last = self._flow.last_uses()
        self._open: list[int] = []

    def pass_by(self, i: int) -> None:
        """Operation i comes next; those before it were passed."""
        if i > self._program.length and not self._flow.is_view[i - 1] and self._flow.ops[i - 1].name not in FREE:
            self._open.append(i - 1)

    def waiting(self, step: int) -> list[ir.Value]:
        """Values computed before operation `step` that it or later ones use, on the way to a step of the backward.

        Left out is what can be read from the others without memory, and what still has to read values that are
        recomputed at this step or later.
        """
        self._open = [i for i in self._open if self._last[i] >= step]
        chosen: dict[int, None] = {}
        for i in self._open:
            if self._leads_to[i] >= step and (self._fused.is_anchor[i] or self._is_sum(i, step, chosen)):
                chosen[i] = None
        return [result for i in chosen for result in self._flow.ops[i].results]

    def _is_sum(self, i: int, step: int, chosen: dict[int, None]) -> bool:
        """Whether the fused operation i combines values of the backward, and all it reads is there at `step`."""
        leaves, is_new = self._leaves(i, chosen)
        use = min((user for user in self._flow.users[i] if user >= step), default=step)
        return is_new and all(self._is_there(leaf, step, use) for leaf in leaves)

    def _leaves(self, i: int, chosen: dict[int, None]) -> tuple[list[int], bool]:
        """The values of the forward that the fused operation i reads, and whether it reads values of the backward that
        are not among `chosen`.
        """
        forward: list[int] = []
        is_new = False
        seen, stack = {i}, [i]
        while stack:
            for j in self._flow.operands[stack.pop()]:
                if j in seen or j in chosen:
                    continue
                seen.add(j)
                if self._fused.is_anchor[j]:
                    if j < self._program.length:
                        forward.append(j)
                    else:
                        is_new = True
                else:
                    stack.append(j)
        return forward, is_new

    def _is_there(self, leaf: int, step: int, use: int) -> bool:
        """Whether a value of the forward that is read at `use` is the one that is there at `step`."""
        again = self._recomputed.get(leaf, [])
        at = bisect_left(again, step)
        return at == len(again) or again[at] > use


def _last_steps_reached(program: Program) -> list[int]:
    """For each operation the last step of the backward that depends on it, -1 for none."""
    steps = set(program.steps)
    reached = [-1] * len(program.flow.ops)
    for i in reversed(range(program.length, len(program.flow.ops))):
        if program.flow.is_view[i]:
            continue
        reached[i] = max((reached[user] for user in program.flow.users[i]), default=-1)
        if i in steps:
            reached[i] = max(reached[i], i)
    return reached
