"""The integer program of a problem, solved by CP-SAT of OR-tools.

OR-tools and highspy each bring a HiGHS of their own, and whichever is loaded second fails, so CP-SAT runs in a process
of its own: `python -m zenith_mlir.remat.cpsat` reads a program, pickled, and writes what it found.
"""

from __future__ import annotations

import importlib.util
import os
import pickle
import subprocess
import sys

from zenith_mlir.errors import ZenithError
from zenith_mlir.remat.problem import Problem
from zenith_mlir.remat.program import Program, is_too_large, program_of
from zenith_mlir.remat.referee import Result
from zenith_mlir.remat.schedule import Plan

__all__ = ["solve_cpsat"]

# CP-SAT counts in whole numbers: the dearest node costs so much.
_UNITS = 10**7


def solve_cpsat(
    problem: Problem,
    budget_bytes: int,
    start: Plan | None = None,
    *,
    offload: bool = False,
    time_limit: float | None = None,
) -> Result:
    """The cheapest plan that fits, found in at most `time_limit` seconds, beginning with `start`. Of problems whose
    program is too large nothing is said.

    Raises:
        ZenithError: if OR-tools is not installed, or fails.
    """
    if importlib.util.find_spec("ortools") is None:
        raise ZenithError('solver cpsat needs OR-tools: pip install "zenith_mlir[cpsat]"')
    if is_too_large(problem):
        return Result(None, 0.0, False)
    program = program_of(problem, budget_bytes, offload=offload)
    if not program.possible:
        return Result(None, 0.0, True)
    hint = program.assignment(problem, start) if start else {}
    child = subprocess.run(
        [sys.executable, "-m", "zenith_mlir.remat.cpsat"],
        input=pickle.dumps((program, hint, time_limit)),
        capture_output=True,
        check=False,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
    )
    if child.returncode:
        raise ZenithError(f"CP-SAT failed: {child.stderr.decode(errors='replace').strip().splitlines()[-1:]}")
    values, bound, proven = pickle.loads(child.stdout)
    return Result(program.plan(problem, values) if values else None, bound, proven)


def _solve(program: Program, hint: dict[int, float], time_limit: float | None) -> tuple[list[int] | None, float, bool]:
    """The values of the variables, a lower bound, and whether there is nothing better."""
    from ortools.sat.python import cp_model

    unit = (max(program.cost, default=0.0) or 1.0) / _UNITS
    model = cp_model.CpModel()
    variables = [model.new_bool_var("") for _ in program.cost]
    for row, low in enumerate(program.low):
        part = slice(program.starts[row], program.starts[row + 1])
        terms = zip(program.values[part], program.columns[part], strict=True)
        model.add(sum(int(value) * variables[column] for value, column in terms) >= int(low))
    # Rounded down, so that the bound is one.
    model.minimize(sum(int(cost / unit) * x for cost, x in zip(program.cost, variables, strict=True) if cost))
    for column, value in hint.items():
        model.add_hint(variables[column], int(value))
    solver = cp_model.CpSolver()
    if time_limit is not None:
        solver.parameters.max_time_in_seconds = time_limit
    status = solver.solve(model)
    values = [solver.value(x) for x in variables] if status in (cp_model.OPTIMAL, cp_model.FEASIBLE) else None
    bound = max(0.0, solver.best_objective_bound) * unit if values else 0.0
    return values, bound, status in (cp_model.OPTIMAL, cp_model.INFEASIBLE)


if __name__ == "__main__":
    answer = _solve(*pickle.load(sys.stdin.buffer))
    sys.stdout.buffer.write(pickle.dumps(answer))
