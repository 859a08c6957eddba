"""A plan, and what it costs and takes: the schedule is run on paper, event by event."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from zenith_mlir.remat.problem import Problem

__all__ = ["Event", "IncompletePlan", "Plan", "Timeline", "keep_all", "lazily", "simulate"]

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
        return sum(
            float(problem.offload_cost[i] if i in self.offload else problem.cost[i])
            for batch in self.recompute
            for i in batch
        )


@dataclass(frozen=True)
class Event:
    """A moment of the schedule: node `node` runs (`step` is -1 in the forward), or with `node` -1 step `step` does."""

    node: int
    step: int


@dataclass(frozen=True)
class Timeline:
    """Bytes live at each event of a schedule; `kept` are the nodes whose first values wait for the backward."""

    events: list[Event]
    live: NDArray[np.int64]
    kept: frozenset[int]

    @property
    def peak(self) -> int:
        return int(self.live.max(initial=0))


def simulate(problem: Problem, plan: Plan) -> Timeline:
    """The schedule of `plan` and the bytes live at each moment.

    Raises:
        IncompletePlan: if it uses what is not there, or repeats what cannot be.
    """
    events = list(_events(problem, plan))
    current = np.full(problem.nodes, -1, np.int64)
    node_of: list[int] = []
    created: list[int] = []
    last: list[int] = []
    for e, event in enumerate(events):
        for j in _needs(problem, plan, event):
            if current[j] < 0:
                raise IncompletePlan(f"event {e} ({event}) uses node {j}, which has not run")
            last[current[j]] = e
        if event.node >= 0:
            current[event.node] = len(node_of)
            node_of.append(event.node)
            created.append(e)
            last.append(e)
    born, dies, nodes = np.array(created), np.array(last), np.array(node_of)
    sizes = _sizes(problem, events, nodes, born, dies)
    changes = np.zeros(len(events) + 1, np.int64)
    np.add.at(changes, born, sizes)
    np.subtract.at(changes, dies + 1, sizes)
    base = [problem.forward_base[v.node] if v.step < 0 else problem.backward_base[v.step] for v in events]
    first = np.arange(len(nodes)) < problem.nodes
    kept = frozenset(nodes[first & (dies >= problem.nodes)].tolist())
    return Timeline(events, np.cumsum(changes[:-1]) + np.array(base, np.int64), kept)


def _events(problem: Problem, plan: Plan) -> Iterator[Event]:
    if len(plan.recompute) != problem.steps:
        raise IncompletePlan(f"a plan for {len(plan.recompute)} steps and a backward of {problem.steps}")
    yield from (Event(i, -1) for i in range(problem.nodes))
    for t, batch in enumerate(plan.recompute):
        for i in batch:
            if i not in plan.offload and not problem.repeatable[i]:
                raise IncompletePlan(f"node {i} cannot run twice, and step {t} asks for it")
            yield Event(i, t)
        yield Event(-1, t)


def _needs(problem: Problem, plan: Plan, event: Event) -> Iterable[int]:
    if event.node < 0:
        return problem.uses[event.step]
    if event.step >= 0 and event.node in plan.offload:
        return ()
    return problem.operands[event.node]


def _sizes(problem: Problem, events: list[Event], nodes: Indices, born: Indices, dies: Indices) -> Indices:
    """What each version takes: all of its bytes if it waits for a later sweep or step, else what fusion leaves."""
    # The sweep an event belongs to: the forward is -1; recomputing for a step belongs to the step.
    sweep = np.array([event.step for event in events])
    waits = sweep[born] != sweep[dies]
    sizes: Indices = np.where(waits, problem.bytes[nodes], problem.transient[nodes])
    return sizes


def lazily(problem: Problem, keep: Collection[int], offload: Collection[int] = ()) -> Plan:
    """The plan that keeps `keep`, moves `offload` to the host, and computes everything else once more, just before the
    first step that needs it.

    Raises:
        IncompletePlan: if what is not kept cannot be computed again.
    """
    there = np.zeros(problem.nodes, bool)
    there[list(keep)] = True
    away = frozenset(offload) - frozenset(keep)
    recompute: list[tuple[int, ...]] = []
    for uses in problem.uses:
        missing: set[int] = set()
        stack = [j for j in uses if not there[j]]
        while stack:
            i = stack.pop()
            if i in missing:
                continue
            if i not in away and not problem.repeatable[i]:
                raise IncompletePlan(f"node {i} cannot run twice and is not kept")
            missing.add(i)
            if i not in away:
                stack.extend(j for j in problem.operands[i] if not there[j])
        recompute.append(tuple(sorted(missing)))
        there[list(missing)] = True
    return Plan(tuple(recompute), away)


def keep_all(problem: Problem) -> Plan:
    """The plan that computes nothing again."""
    return Plan(((),) * problem.steps)
