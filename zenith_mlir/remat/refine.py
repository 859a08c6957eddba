"""Local search over schedules that run nodes several times: one run less, or one more where memory is short."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from zenith_mlir.remat.frontier import Frontier
from zenith_mlir.remat.problem import Problem
from zenith_mlir.remat.schedule import Plan, simulate, useful

__all__ = ["refine"]

Batches = tuple[tuple[int, ...], ...]


def refine(frontier: Frontier, evaluations: int) -> None:
    """Add plans to `frontier` until none of its plans that run a node twice gets better in seconds or bytes by a run
    less or a run more, or until `evaluations` plans have been looked at.
    """
    seen = {point.plan.recompute for point in frontier.points}
    explored: set[Batches] = set()
    # Which to try first where not all can be: any, and always the same.
    random = np.random.default_rng(0)
    while left := [p.plan for p in frontier.points if p.plan.recompute not in explored and _repeats(p.plan)]:
        plan = left[int(random.integers(len(left)))]
        explored.add(plan.recompute)
        for batches in _neighbours(frontier.problem, plan):
            neighbour = useful(frontier.problem, Plan(batches, plan.offload))
            if neighbour.recompute in seen:
                continue
            if evaluations <= 0:
                return
            seen.add(neighbour.recompute)
            frontier.add(neighbour)
            evaluations -= 1


def _repeats(plan: Plan) -> bool:
    runs = [i for batch in plan.recompute for i in batch]
    return len(runs) > len(set(runs))


def _neighbours(problem: Problem, plan: Plan) -> Iterator[Batches]:
    batches = plan.recompute
    for t, batch in enumerate(batches):
        for k in range(len(batch)):
            yield (*batches[:t], batch[:k] + batch[k + 1 :], *batches[t + 1 :])
    for t, nodes in _shorter(problem, plan):
        yield (*batches[:t], nodes, *batches[t + 1 :])


def _shorter(problem: Problem, plan: Plan) -> Iterator[tuple[int, tuple[int, ...]]]:
    """For each value that waits while memory is at its peak, and that may run again: the step before which it is used
    next, and what would run before that to have it there again.
    """
    timeline = simulate(problem, plan)
    peak = int(timeline.live.argmax())
    there, next_use = _around(problem, plan, timeline.node.tolist(), timeline.step.tolist(), peak)
    for i, event in next_use.items():
        t = int(timeline.step[event])
        if t < 0 or not problem.repeatable[i] or i in plan.offload:
            continue
        missing, stack = {i}, list(problem.operands[i])
        while stack:
            j = stack.pop()
            # What waits for a later event is there; what runs for the same step runs once more.
            if j not in missing and not there.get(j, -1) >= event:
                missing.add(j)
                stack.extend(problem.operands[j])
        if all(problem.repeatable[j] for j in missing):
            batch = plan.recompute[t]
            first = next((k for k, user in enumerate(batch) if i in problem.operands[user]), len(batch))
            again = tuple(sorted(missing - set(batch[:first])))
            yield t, batch[:first] + again + batch[first:]


def _around(
    problem: Problem, plan: Plan, node: list[int], step: list[int], peak: int
) -> tuple[dict[int, int], dict[int, int]]:
    """The last event that uses each value that is there at `peak`, and for those that wait there the next."""
    born = {i: e for e, i in enumerate(node[: peak + 1]) if i >= 0}
    last: dict[int, int] = {}
    following: dict[int, int] = {}
    gone: set[int] = set()
    for e in range(peak, len(node)):
        i = node[e]
        if i < 0:
            used = problem.uses[step[e]]
        elif step[e] >= 0 and i in plan.offload:
            used = ()
        else:
            used = problem.operands[i]
        for j in used:
            if j in born and j not in gone:
                following.setdefault(j, e)
                last[j] = e
        if e > peak and i >= 0:
            gone.add(i)
    return last, {j: e for j, e in following.items() if e > peak}
