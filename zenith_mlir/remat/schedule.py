"""A plan, and what it costs and takes: the schedule is run on paper, event by event."""

from __future__ import annotations

import itertools
from collections.abc import Collection
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from zenith_mlir.remat.problem import Problem
from zenith_mlir.remat.ragged import Ragged

__all__ = ["Event", "IncompletePlan", "Plan", "Timeline", "keep_all", "lazily", "simulate", "useful"]

Indices = NDArray[np.int64]


class IncompletePlan(ValueError):
    """A plan in which a value is used that is neither there nor can be computed."""


@dataclass(frozen=True)
class Plan:
    """Before step t of the backward the nodes `recompute[t]` run once more, in that order, from what is there at that
    moment; those in `offload` come back from the host instead. A value lives from each time it is computed until its
    last use before the next time. So what nobody computes again before the backward uses it is kept.
    """

    recompute: tuple[tuple[int, ...], ...]
    offload: frozenset[int] = frozenset()

    def cost(self, problem: Problem) -> float:
        """Seconds on top of the program that keeps everything."""
        again = np.fromiter(itertools.chain.from_iterable(self.recompute), np.int64)
        away = np.zeros(problem.nodes, bool)
        away[list(self.offload)] = True
        return float(np.where(away[again], problem.offload_cost[again], problem.cost[again]).sum())


@dataclass(frozen=True)
class Event:
    """A moment of the schedule: node `node` runs (`step` is -1 in the forward), or with `node` -1 step `step` does."""

    node: int
    step: int


@dataclass(frozen=True, eq=False)
class Timeline:
    """Bytes live at each event of a schedule; `kept` are the nodes whose first values wait for the backward.

    Event e is node `node[e]` running in sweep `step[e]`, both as in `Event`.
    """

    node: Indices
    step: Indices
    live: Indices
    kept: frozenset[int]

    @cached_property
    def events(self) -> list[Event]:
        return [Event(*pair) for pair in zip(self.node.tolist(), self.step.tolist(), strict=True)]

    @property
    def peak(self) -> int:
        return int(self.live.max(initial=0))


def simulate(problem: Problem, plan: Plan) -> Timeline:
    """The schedule of `plan` and the bytes live at each moment.

    Raises:
        IncompletePlan: if it uses what is not there, or repeats what cannot be.
    """
    node, step = _events(problem, plan)
    away = _away(problem, plan, node, step)
    born = np.flatnonzero(node >= 0)
    values, users = _needs(problem, node, step, away)
    # Versions of values in the order of (node, time): the one that an event uses is the last before it.
    order = np.argsort(node[born], kind="stable")
    key = node[born][order] * len(node) + born[order]
    used = np.searchsorted(key, values * len(node) + users) - 1
    if len(used) and (absent := (used < 0) | (node[born][order][used] != values)).any():
        first = np.flatnonzero(absent)[users[absent].argmin()]
        event = Event(int(node[users[first]]), int(step[users[first]]))
        raise IncompletePlan(f"event {users[first]} ({event}) uses node {values[first]}, which has not run")
    dies = born.copy()
    np.maximum.at(dies, order[used], users)
    nodes = node[born]
    # All of its bytes if it waits for a later sweep or step, else what fusion leaves.
    sizes = np.where(step[born] != step[dies], problem.bytes[nodes], problem.transient[nodes])
    changes = np.zeros(len(node) + 1, np.int64)
    np.add.at(changes, born, sizes)
    np.subtract.at(changes, dies + 1, sizes)
    n = problem.nodes
    base = np.concatenate([problem.forward_base, problem.backward_base[step[n:]]])
    return Timeline(node, step, np.cumsum(changes[:-1]) + base, frozenset(np.flatnonzero(dies[:n] >= n).tolist()))


def _events(problem: Problem, plan: Plan) -> tuple[Indices, Indices]:
    """The node (-1: the step itself) and the sweep (-1: the forward) of each event. Recomputing for a step belongs to
    the step's sweep.
    """
    if len(plan.recompute) != problem.steps:
        raise IncompletePlan(f"a plan for {len(plan.recompute)} steps and a backward of {problem.steps}")
    batches = Ragged.of(plan.recompute)
    steps = np.arange(problem.steps)
    node = np.insert(batches.values, batches.starts[1:], -1)
    step = np.insert(batches.rows, batches.starts[1:], steps)
    n = problem.nodes
    return np.concatenate([np.arange(n), node]), np.concatenate([np.full(n, -1), step])


def _away(problem: Problem, plan: Plan, node: Indices, step: Indices) -> NDArray[np.bool_]:
    """Whether each event brings a value back from the host."""
    offloaded = np.zeros(problem.nodes + 1, bool)
    offloaded[list(plan.offload)] = True
    again = (step >= 0) & (node >= 0)
    away: NDArray[np.bool_] = again & offloaded[node]
    wrong = again & ~away & ~np.append(problem.repeatable, True)[node]
    if wrong.any():
        e = int(wrong.argmax())
        raise IncompletePlan(f"node {node[e]} cannot run twice, and step {step[e]} asks for it")
    return away


def _needs(problem: Problem, node: Indices, step: Indices, away: NDArray[np.bool_]) -> tuple[Indices, Indices]:
    """The values that events use, and the events that use them."""
    run, backward = np.flatnonzero((node >= 0) & ~away), np.flatnonzero(node < 0)
    operands, users = problem.operand_rows.take(node[run])
    uses, steps = problem.use_rows.take(step[backward])
    return np.concatenate([operands, uses]), np.concatenate([run[users], backward[steps]])


def lazily(problem: Problem, keep: Collection[int], offload: Collection[int] = ()) -> Plan:
    """The plan that keeps `keep`, moves `offload` to the host, and computes everything else once more, just before the
    first step that needs it.

    Raises:
        IncompletePlan: if what is not kept cannot be computed again.
    """
    away = frozenset(offload) - frozenset(keep)
    never = problem.steps
    need = np.full(problem.nodes, never)
    np.minimum.at(need, problem.use_rows.values, problem.use_rows.rows)
    need[list(keep)] = never
    first: list[int] = need.tolist()
    there = set(keep)
    for i in range(problem.nodes - 1, -1, -1):
        if (step := first[i]) == never or i in away:
            continue
        if not problem.repeatable[i]:
            raise IncompletePlan(f"node {i} cannot run twice and is not kept")
        for j in problem.operands[i]:
            if first[j] > step and j not in there:
                first[j] = step
    again = np.array(first, np.int64)
    order = np.argsort(again, kind="stable")
    starts = np.searchsorted(again[order], np.arange(never + 1)).tolist()
    nodes = order.tolist()
    return Plan(tuple(tuple(nodes[a:b]) for a, b in itertools.pairwise(starts)), away)


def useful(problem: Problem, plan: Plan) -> Plan:
    """`plan` without what it computes again for nobody."""
    needed = [False] * problem.nodes
    batches: list[tuple[int, ...]] = [()] * problem.steps
    for t in range(problem.steps - 1, -1, -1):
        for i in problem.uses[t]:
            needed[i] = True
        if not plan.recompute[t]:
            continue
        batch = []
        for i in reversed(plan.recompute[t]):
            if needed[i]:
                needed[i] = False
                batch.append(i)
                if i not in plan.offload:
                    for j in problem.operands[i]:
                        needed[j] = True
        batches[t] = tuple(reversed(batch))
    return Plan(tuple(batches), plan.offload)


def keep_all(problem: Problem) -> Plan:
    """The plan that computes nothing again."""
    return Plan(((),) * problem.steps)
