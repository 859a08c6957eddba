"""The whole problem as a mixed-integer linear program for HiGHS: the referee for small problems.

After Jain et al. 2020, "Checkmate: breaking the memory wall with optimal tensor rematerialization", with the forward
fixed, since it runs once: only the sweeps before each step of the backward choose what they recompute.

    R[i, t]     node i runs before step t
    S[i, t]     the value of i waits for step t when what precedes that step begins
    P[i, t, k]  while its user k runs before step t, the value of i is there

Plans are those that run no node twice before the same step, and what they run in the order of the forward.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from zenith_mlir.errors import ZenithError
from zenith_mlir.remat.problem import Problem
from zenith_mlir.remat.schedule import Plan

__all__ = ["Program", "Result", "program_of", "solve_milp"]

Terms = dict[int, float]


@dataclass
class Program:
    """Minimize `cost` x subject to `low` <= rows x <= infinity; all x lie between 0 and 1."""

    cost: list[float] = field(default_factory=list)
    integral: list[bool] = field(default_factory=list)
    low: list[float] = field(default_factory=list)
    starts: list[int] = field(default_factory=lambda: [0])
    columns: list[int] = field(default_factory=list)
    values: list[float] = field(default_factory=list)
    run: dict[tuple[int, int], int] = field(default_factory=dict)
    wait: dict[tuple[int, int], int] = field(default_factory=dict)

    def variable(self, cost: float = 0.0, integral: bool = False) -> int:
        self.cost.append(cost)
        self.integral.append(integral)
        return len(self.cost) - 1

    def at_least(self, low: float, terms: Terms) -> None:
        """The sum of coefficient times variable is at least `low`."""
        self.low.append(low)
        self.columns.extend(terms)
        self.values.extend(terms.values())
        self.starts.append(len(self.columns))

    def plan(self, problem: Problem, x: NDArray[np.float64]) -> Plan:
        recompute: list[list[int]] = [[] for _ in range(problem.steps)]
        for (i, t), variable in sorted(self.run.items()):
            if x[variable] > 0.5:
                recompute[t].append(i)
        return Plan(tuple(map(tuple, recompute)))


def last_needs(problem: Problem) -> list[int]:
    """The last step for which each node may be of use; -1 where it is of none."""
    last = np.full(problem.nodes, -1)
    np.maximum.at(last, problem.use_rows.values, problem.use_rows.rows)
    needs: list[int] = last.tolist()
    for i in range(problem.nodes - 1, -1, -1):
        for j in problem.operands[i]:
            needs[j] = max(needs[j], needs[i])
    return needs


def program_of(problem: Problem, budget_bytes: int, integral: bool = True) -> Program:
    """The program whose solutions are the plans that fit `budget_bytes`; memory is counted in the budget's unit."""
    program = Program()
    needs = last_needs(problem)
    users: list[list[int]] = [[] for _ in range(problem.nodes)]
    for k, operands in enumerate(problem.operands):
        for j in operands:
            users[j].append(k)
    used = [set(step) for step in problem.uses]
    for i, last in enumerate(needs):
        for t in range(last + 1):
            program.wait[i, t] = program.variable(integral=integral)
            if problem.repeatable[i]:
                program.run[i, t] = program.variable(float(problem.cost[i]), integral)
    _availability(program, problem, needs, used)
    _forward_memory(program, problem, budget_bytes)
    for t in range(problem.steps):
        _sweep_memory(program, problem, budget_bytes, t, users, used[t])
    return program


def _availability(program: Program, problem: Problem, needs: list[int], used: list[set[int]]) -> None:
    for (i, t), wait in program.wait.items():
        here: Terms = {wait: 1.0}
        if (i, t) in program.run:
            run = program.run[i, t]
            here[run] = 1.0
            program.at_least(-1.0, {wait: -1.0, run: -1.0})
            for j in problem.operands[i]:
                there: Terms = {program.wait[j, t]: 1.0, run: -1.0}
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
        free = (budget - float(problem.forward_base[e])) / budget
        terms: Terms = {}
        for i in range(e + 1):
            passing = float(problem.transient[i]) / budget if last[i] >= e else 0.0
            free -= passing
            if (i, 0) in program.wait:
                terms[program.wait[i, 0]] = -(float(problem.bytes[i]) / budget - passing)
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
        full, passing = float(problem.bytes[i]) / budget, float(problem.transient[i]) / budget
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
                program.at_least(0.0, {before: 1.0, program.run[k, t]: -1.0})
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
        free = (budget - float(problem.backward_base[t])) / budget - terms.pop(None, 0.0)
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


def _assignment(program: Program, problem: Problem, plan: Plan) -> tuple[list[int], list[float]]:
    """The values that `plan` gives to R and S."""
    values = dict.fromkeys([*program.run.values(), *program.wait.values()], 0.0)
    born: dict[int, int] = dict.fromkeys(range(problem.nodes), -1)

    def use(i: int, t: int) -> None:
        for waiting in range(born[i] + 1, t + 1):
            values[program.wait[i, waiting]] = 1.0

    for t, batch in enumerate(plan.recompute):
        again = set(batch)
        for i in batch:
            values[program.run[i, t]] = 1.0
            for j in problem.operands[i]:
                if j not in again:
                    use(j, t)
        for i in batch:
            born[i] = t
        for i in problem.uses[t]:
            use(i, t)
    return list(values), list(values.values())


@dataclass(frozen=True, eq=False)
class Result:
    """`plan` is None where none was found in time. No plan of the class costs less than `lower_bound`; `proven` says
    that the plan is optimal, or that there is none.
    """

    plan: Plan | None
    lower_bound: float
    proven: bool


def _highs() -> Any:
    try:
        import highspy
    except ImportError:
        raise ZenithError('the solver milp needs highspy: pip install "zenith_mlir[solvers]"') from None
    return highspy


def solve_milp(
    problem: Problem, budget_bytes: int, *, time_limit: float | None = None, start: Plan | None = None
) -> Result:
    """The cheapest plan that fits, found by HiGHS in at most `time_limit` seconds, beginning with `start`.

    Raises:
        ZenithError: if highspy is not installed.
    """
    highspy = _highs()
    program = program_of(problem, budget_bytes)
    unit = max(float(problem.cost.sum()), 1e-300)
    count = len(program.cost)
    lp = highspy.HighsLp()
    lp.num_col_, lp.num_row_ = count, len(program.low)
    lp.col_cost_ = np.array(program.cost) / unit
    lp.col_lower_, lp.col_upper_ = np.zeros(count), np.ones(count)
    lp.row_lower_ = np.array(program.low)
    lp.row_upper_ = np.full(len(program.low), highspy.kHighsInf)
    lp.a_matrix_.format_ = highspy.MatrixFormat.kRowwise
    lp.a_matrix_.start_ = np.array(program.starts)
    lp.a_matrix_.index_ = np.array(program.columns)
    lp.a_matrix_.value_ = np.array(program.values)
    kinds = highspy.HighsVarType.kContinuous, highspy.HighsVarType.kInteger
    lp.integrality_ = [kinds[whole] for whole in program.integral]
    highs = highspy.Highs()
    highs.setOptionValue("output_flag", False)
    highs.setOptionValue("mip_rel_gap", 1e-6)
    if time_limit is not None:
        highs.setOptionValue("time_limit", float(time_limit))
    highs.passModel(lp)
    if start is not None:
        columns, values = _assignment(program, problem, start)
        highs.setSolution(len(columns), columns, values)
    highs.run()
    status, info = highs.getModelStatus(), highs.getInfo()
    proven = status in (highspy.HighsModelStatus.kOptimal, highspy.HighsModelStatus.kInfeasible)
    found = info.primal_solution_status == highspy.SolutionStatus.kSolutionStatusFeasible
    plan = program.plan(problem, np.array(highs.getSolution().col_value)) if found else None
    return Result(plan, max(0.0, float(info.mip_dual_bound)) * unit, proven)
