"""What many lazy plans cost and take, all at once: the arithmetic of `lazily` and `simulate` on columns."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from zenith_mlir.remat.problem import Problem

__all__ = ["KeepSets"]

Indices = NDArray[np.int64]
Flags = NDArray[np.bool_]


class KeepSets:
    """Evaluates `lazily(problem, keep, away)` for many sets at a time, which are columns of shape (nodes, sets).

    Moments are numbered by sweep: the forward's n nodes, then for each step of the backward n nodes and the step.
    """

    def __init__(self, problem: Problem):
        self.problem = problem
        n, m = problem.nodes, problem.steps
        uses, rows = problem.use_rows, problem.operand_rows
        self.first = np.full(n, m)
        np.minimum.at(self.first, uses.values, uses.rows)
        self.direct = np.full(n, -1)
        np.maximum.at(self.direct, uses.values, self._moment(uses.rows, n))
        self.forward = np.arange(n)
        np.maximum.at(self.forward, rows.values, rows.rows)

    def _moment(self, step: Indices, node: Indices | int) -> Indices:
        return self.problem.nodes + step * (self.problem.nodes + 1) + node

    def times(self, keep: Flags, away: Flags) -> tuple[Indices, Indices]:
        """The step before which each value is first needed (the number of steps: never), and the last moment of the
        backward that uses it, -1 without one.
        """
        never = self.problem.steps
        need = np.repeat(self.first[:, None], keep.shape[1], 1)
        last = np.repeat(self.direct[:, None], keep.shape[1], 1)
        for j in range(self.problem.nodes - 1, -1, -1):
            # Complete by now: all users of j have been asked. Operands are used where j runs again.
            idle = keep[j] | away[j] | (need[j] == never)
            step = np.where(idle, never, need[j])
            moment = np.where(idle, -1, self._moment(need[j], j))
            for i in self.problem.operands[j]:
                np.minimum(need[i], step, out=need[i])
                np.maximum(last[i], moment, out=last[i])
        return need, last

    def evaluate(self, keep: Flags, away: Flags) -> tuple[NDArray[np.float64], Indices]:
        """Seconds and peak bytes of each plan that keeps `keep` and sends `away` to the host; infinite seconds where it
        runs again or sends what cannot.
        """
        problem = self.problem
        n, m = problem.nodes, problem.steps
        need, last = self.times(keep, away)
        again = ~keep & (need < m)
        sent = again & away
        cost = problem.cost @ (again & ~away)
        sendable = np.isfinite(problem.offload_cost)
        if sent.any():
            cost = cost + np.where(sendable, problem.offload_cost, 0.0) @ sent
        wrong = again & ~np.where(away, sendable[:, None], problem.repeatable[:, None])
        cost[wrong.any(axis=0)] = np.inf
        # Values as rows of (set, birth, death, bytes): first those of the forward, then those computed again.
        node, column = np.nonzero(np.ones_like(keep))
        waits = (keep & (last >= 0)).ravel()
        death = np.where(waits, last.ravel(), self.forward[node])
        size = np.where(waits, problem.bytes[node], problem.transient[node])
        node2, column2 = np.nonzero(again)
        need2, last2 = need[again], last[again]
        birth2 = self._moment(need2, node2)
        size2 = np.where(last2 > self._moment(need2, n), problem.bytes[node2], problem.transient[node2])
        return cost, self._peaks(
            keep.shape[1],
            np.concatenate([column, column2]),
            np.concatenate([node, birth2]),
            np.concatenate([death, last2]),
            np.concatenate([size, size2]),
        )

    def _peaks(self, sets: int, column: Indices, birth: Indices, death: Indices, size: Indices) -> Indices:
        problem = self.problem
        n, m = problem.nodes, problem.steps
        end = self._moment(np.array(m), 0)
        # At a moment what is born is there, and what dies still is. Steps are moments whatever is born.
        steps = self._moment(np.arange(m), n)
        step_column = np.repeat(np.arange(sets), m)
        keys = np.concatenate([column * end + birth, step_column * end + np.tile(steps, sets)]) * 2
        order = np.argsort(np.concatenate([keys, (column * end + death) * 2 + 1]))
        change = np.concatenate([size, np.zeros(sets * m, np.int64), -size])[order]
        moment = np.concatenate([birth, np.tile(steps, sets), death])[order]
        where = np.concatenate([column, step_column, column])[order]
        # Sets end with nothing live, so that one sum runs through all of them.
        live = np.cumsum(change)
        base = np.concatenate([problem.forward_base, problem.backward_base])
        sweep = np.where(moment < n, moment, n + (moment - n) // (n + 1))
        total = np.where(change >= 0, live + base[sweep], 0)
        starts = np.searchsorted(where, np.arange(sets))
        peaks: Indices = np.maximum.reduceat(total, starts)
        return peaks
