"""The whole problem as an integer linear program, for the referees of small problems.

After Jain et al. 2020, "Checkmate: breaking the memory wall with optimal tensor rematerialization", with the forward
fixed, since it runs once: only the sweeps before each step of the backward choose what they recompute.

    R[i, t]     node i runs before step t
    S[i, t]     the value of i waits for step t when what precedes that step begins
    P[i, t, k]  while its user k runs before step t, the value of i is there
    A[i]        the value of i goes to the host, and what R says is that it comes back

Plans are those that run no node twice before the same step, and what they run in the order of the forward.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from zenith_mlir.remat.problem import Problem
from zenith_mlir.remat.schedule import Plan

__all__ = ["Program", "is_too_large", "program_of"]

Terms = dict[int, float]

# Nodes times nodes times steps: about twice the numbers in the rows of a program, which take a minute to write down.
_LARGEST = 20_000_000


@dataclass
class Program:
    """Minimize `cost` x subject to rows x >= `low`, all x between 0 and 1. Row r is `values[starts[r] : starts[r + 1]]`
    in those `columns`.
    """

    cost: list[float] = field(default_factory=list)
    integral: list[bool] = field(default_factory=list)
    low: list[float] = field(default_factory=list)
    starts: list[int] = field(default_factory=lambda: [0])
    columns: list[int] = field(default_factory=list)
    values: list[float] = field(default_factory=list)
    run: dict[tuple[int, int], int] = field(default_factory=dict)
    wait: dict[tuple[int, int], int] = field(default_factory=dict)
    away: dict[int, int] = field(default_factory=dict)
    possible: bool = True

    def variable(self, cost: float = 0.0, integral: bool = False) -> int:
        self.cost.append(cost)
        self.integral.append(integral)
        return len(self.cost) - 1

    def at_least(self, low: float, terms: Terms) -> None:
        """The sum of coefficient times variable is at least `low`."""
        if not terms:
            self.possible = self.possible and low <= 0
            return
        self.low.append(low)
        self.columns.extend(terms)
        self.values.extend(terms.values())
        self.starts.append(len(self.columns))

    def plan(self, problem: Problem, x: Sequence[float] | NDArray[np.float64]) -> Plan:
        """The plan that the values `x` of the variables stand for."""
        recompute: list[list[int]] = [[] for _ in range(problem.steps)]
        for (i, t), variable in sorted(self.run.items()):
            if x[variable] > 0.5:
                recompute[t].append(i)
        return Plan(tuple(map(tuple, recompute)), frozenset(i for i, a in self.away.items() if x[a] > 0.5))

    def assignment(self, problem: Problem, plan: Plan) -> dict[int, float]:
        """The values of R, S and A in `plan`, without what it runs after the last step that could use it."""
        values = dict.fromkeys([*self.run.values(), *self.wait.values(), *self.away.values()], 0.0)
        # The sweep after which each value is there.
        since = [-1] * problem.nodes

        def use(i: int, t: int) -> None:
            values.update((self.wait[i, waiting], 1.0) for waiting in range(since[i] + 1, t + 1))

        for t, nodes in enumerate(plan.recompute):
            batch = [i for i in nodes if (i, t) in self.run]
            again = set(batch)
            for i in batch:
                values[self.run[i, t]] = 1.0
                if i in plan.offload:
                    values[self.away[i]] = 1.0
                    continue
                for j in problem.operands[i]:
                    if j not in again:
                        use(j, t)
            for i in batch:
                since[i] = t
            for i in problem.uses[t]:
                use(i, t)
        return values


def last_needs(problem: Problem) -> list[int]:
    """The last step for which each node may be of use; -1 where it is of none."""
    last = np.full(problem.nodes, -1)
    np.maximum.at(last, problem.use_rows.values, problem.use_rows.rows)
    needs: list[int] = last.tolist()
    for i in range(problem.nodes - 1, -1, -1):
        for j in problem.operands[i]:
            needs[j] = max(needs[j], needs[i])
    return needs


def is_too_large(problem: Problem) -> bool:
    """Whether the program of `problem` could not be written down in a minute, let alone be solved."""
    return problem.nodes**2 * problem.steps > _LARGEST


def program_of(problem: Problem, budget_bytes: int, *, offload: bool = False) -> Program:
    """The program whose solutions are the plans that fit `budget_bytes`. Rows about memory are in bytes."""
    program = Program()
    needs = last_needs(problem)
    users: list[list[int]] = [[] for _ in range(problem.nodes)]
    for k, operands in enumerate(problem.operands):
        for j in operands:
            users[j].append(k)
    used = [set(step) for step in problem.uses]
    for i, last in enumerate(needs):
        sendable = offload and last >= 0 and np.isfinite(problem.offload_cost[i])
        if sendable:
            program.away[i] = program.variable(integral=True)
        for t in range(last + 1):
            program.wait[i, t] = program.variable(integral=True)
            if problem.repeatable[i] or sendable:
                program.run[i, t] = program.variable(float(problem.cost[i]), integral=True)
                if sendable:
                    _sent(program, problem, i, program.run[i, t])
    _availability(program, problem, needs, used)
    _forward_memory(program, problem, budget_bytes)
    for t in range(problem.steps):
        _sweep_memory(program, problem, budget_bytes, t, users, used[t])
    return program


def _sent(program: Program, problem: Problem, i: int, run: int) -> None:
    """What the host sends back costs that instead of running the node, which may be cheaper or dearer."""
    away, extra = program.away[i], float(problem.offload_cost[i])
    if not problem.repeatable[i]:
        program.at_least(0.0, {away: 1.0, run: -1.0})
    # Neither, run, or fetched: what the variable costs itself goes to the two that follow.
    program.cost[run] = 0.0
    for cost, with_away in ((float(problem.cost[i]), 1.0), (extra, -1.0)):
        paid = program.variable(cost)
        program.at_least(0.0 if with_away > 0 else -1.0, {paid: 1.0, run: -1.0, away: with_away})


def _availability(program: Program, problem: Problem, needs: list[int], used: list[set[int]]) -> None:
    for (i, t), wait in program.wait.items():
        here: Terms = {wait: 1.0}
        if (i, t) in program.run:
            run = program.run[i, t]
            here[run] = 1.0
            program.at_least(-1.0, {wait: -1.0, run: -1.0})
            for j in problem.operands[i]:
                there: Terms = {program.wait[j, t]: 1.0, run: -1.0}
                if i in program.away:
                    there[program.away[i]] = 1.0
                if (j, t) in program.run:
                    there[program.run[j, t]] = 1.0
                program.at_least(0.0, there)
        if i in used[t]:
            program.at_least(1.0, here)
        if t < needs[i]:
            program.at_least(0.0, {**here, program.wait[i, t + 1]: -1.0})


def _forward_memory(program: Program, problem: Problem, budget: int) -> None:
    last = np.arange(problem.nodes)
    rows = problem.operand_rows
    np.maximum.at(last, rows.values, rows.rows)
    for e in range(problem.nodes):
        free = float(budget - problem.forward_base[e])
        terms: Terms = {}
        for i in range(e + 1):
            passing = float(problem.transient[i]) if last[i] >= e else 0.0
            free -= passing
            if (i, 0) in program.wait:
                terms[program.wait[i, 0]] = passing - float(problem.bytes[i])
        program.at_least(-free, terms)


def _sweep_memory(
    program: Program, problem: Problem, budget: int, t: int, users: list[list[int]], used: set[int]
) -> None:
    """What is live while each node runs before step t, and in the step itself, fits."""
    n = problem.nodes
    events = np.array([*(i for i in range(n) if (i, t) in program.run), n])
    # What is live at each event: variables and the bytes that they stand for; under None what is there always.
    live: dict[int, dict[int | None, float]] = {e: defaultdict(float) for e in events.tolist()}
    for i in range(n):
        if (i, t) not in program.wait:
            continue
        full, passing = float(problem.bytes[i]), float(problem.transient[i])
        wait, run, later = program.wait[i, t], program.run.get((i, t)), program.wait.get((i, t + 1))
        for e in events[events < i].tolist():
            live[e][wait] += full
        # From each event on to the next user that runs the value is there if it is used then or afterwards.
        there: int | None = later
        certain, stop = i in used, n
        for k in [*reversed([k for k in users[i] if (k, t) in program.run]), i]:
            if there is not None or certain:
                in_full = _in_full(program, None if certain else there, wait, later) if full > passing else None
                for e in events[(events > k) & (events <= stop)].tolist():
                    live[e][None if certain else there] += passing
                    if in_full is not None:
                        live[e][in_full] += full - passing
            if k > i and not certain:
                before = program.variable()
                uses: Terms = {before: 1.0, program.run[k, t]: -1.0}
                if k in program.away:
                    uses[program.away[k]] = 1.0
                program.at_least(0.0, uses)
                if there is not None:
                    program.at_least(0.0, {before: 1.0, there: -1.0})
                there = before
            stop = k
        if run is not None:
            live[i][wait] += full
            live[i][run] += passing
            if later is not None and full > passing:
                live[i][_in_full(program, run, None, later)] += full - passing
    for terms in live.values():
        free = float(budget - problem.backward_base[t]) - terms.pop(None, 0.0)
        program.at_least(-free, {x: -size for x, size in terms.items() if x is not None})


def _in_full(program: Program, there: int | None, wait: int | None, later: int | None) -> int:
    """A variable that is 1 if a value is `there` (None: it is), and waited before the sweep or waits after it."""
    result = program.variable()
    for waits in (wait, later):
        if waits is not None:
            terms = {result: 1.0, waits: -1.0}
            surely = there is None or there == waits
            program.at_least(0.0 if surely else -1.0, terms if surely or there is None else {**terms, there: -1.0})
    return result
