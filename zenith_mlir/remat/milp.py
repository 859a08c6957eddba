"""The integer program of a problem, solved by HiGHS."""

from __future__ import annotations

import numpy as np

from zenith_mlir.errors import ZenithError
from zenith_mlir.remat.problem import Problem
from zenith_mlir.remat.program import is_too_large, program_of
from zenith_mlir.remat.referee import Result
from zenith_mlir.remat.schedule import Plan, keep_all

__all__ = ["solve_milp"]


def solve_milp(
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
        ZenithError: if highspy is not installed.
    """
    try:
        import highspy
    except ImportError:
        raise ZenithError('solver milp needs highspy: pip install "zenith_mlir[solvers]"') from None
    if is_too_large(problem):
        return Result(None, 0.0, False)
    program = program_of(problem, budget_bytes, offload=offload)
    if not program.possible:
        return Result(None, 0.0, True)
    if not program.low:
        return Result(keep_all(problem), 0.0, True)
    unit = max(program.cost, default=0.0) or 1.0
    values, starts = np.array(program.values), np.array(program.starts)
    # Bytes by the largest of their row, so that tolerances mean the same everywhere.
    scale = np.maximum.reduceat(np.abs(values), starts[:-1])
    scale[scale == 0] = 1.0
    count = len(program.cost)
    lp = highspy.HighsLp()
    lp.num_col_, lp.num_row_ = count, len(program.low)
    lp.col_cost_ = np.array(program.cost) / unit
    lp.col_lower_, lp.col_upper_ = np.zeros(count), np.ones(count)
    lp.row_lower_ = np.array(program.low) / scale
    lp.row_upper_ = np.full(len(program.low), highspy.kHighsInf)
    lp.a_matrix_.format_ = highspy.MatrixFormat.kRowwise
    lp.a_matrix_.start_ = starts
    lp.a_matrix_.index_ = np.array(program.columns)
    lp.a_matrix_.value_ = values / np.repeat(scale, np.diff(starts))
    kinds = highspy.HighsVarType.kContinuous, highspy.HighsVarType.kInteger
    lp.integrality_ = [kinds[whole] for whole in program.integral]
    highs = highspy.Highs()
    highs.setOptionValue("output_flag", False)
    highs.setOptionValue("mip_rel_gap", 1e-6)
    if time_limit is not None:
        highs.setOptionValue("time_limit", float(time_limit))
    highs.passModel(lp)
    if start is not None:
        known = program.assignment(problem, start)
        highs.setSolution(len(known), np.array(list(known)), np.array(list(known.values())))
    highs.run()
    status, info = highs.getModelStatus(), highs.getInfo()
    proven = status in (highspy.HighsModelStatus.kOptimal, highspy.HighsModelStatus.kInfeasible)
    found = info.primal_solution_status == highspy.SolutionStatus.kSolutionStatusFeasible
    plan = program.plan(problem, highs.getSolution().col_value) if found else None
    return Result(plan, max(0.0, float(info.mip_dual_bound)) * unit, proven)
