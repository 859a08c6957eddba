"""Solvers of rematerialization beside each other: what their plans cost, how near to the best, and how long they take.

    python benchmarks/remat_solvers.py [--models VGG16,U-Net] [--budgets 8] [--time-limit 60] [--no-models] [--no-scale]

Costs are seconds computed again. For each model and budgets from the least to all that it needs: the cost of `optimal`
in percent of the forward; its ratio to the best plan that HiGHS finds in the time limit when it begins with that of
`optimal`, to what HiGHS proves, and to the best bound proven for all plans; and the cost of the other solvers as
a multiple of that of `optimal`. `step` is the ratio to the best bound (or HiGHS's plan) of the whole training step, a
backward counted as two forwards: what Checkmate (Jain et al. 2020) reports its 1.06 for. HiGHS is not asked about
problems of more nodes times steps than `--largest`.
Then the dynamic program over chains, and programs of 50,000 nodes.
"""

from __future__ import annotations

import argparse
import os
import random
import time
from collections.abc import Callable
from typing import Any

os.environ.setdefault("JAX_PLATFORMS", "cpu")

import numpy as np
from cases.convnets import NETWORKS, loss_of
from cases.deep_program import deep_program, uneven_program
from rich.console import Console
from rich.table import Table

from zenith_mlir.remat.chain import Chain, Mode, Stage
from zenith_mlir.remat.chain_tables import ChainTables
from zenith_mlir.remat.from_jaxpr import problem_of_vjp
from zenith_mlir.remat.milp import solve_milp
from zenith_mlir.remat.problem import Problem
from zenith_mlir.remat.relaxation import peak_moments, relaxed_bound
from zenith_mlir.remat.schedule import keep_all, simulate
from zenith_mlir.remat.solve import Infeasible, Solution, Solved, explore

_OTHERS = ("fast", "chain", "cut", "greedy", "sqrt")
console = Console(width=140)


def timed(call: Callable[[], Any]) -> tuple[Any, float]:
    start = time.perf_counter()
    return call(), time.perf_counter() - start


def ratio(cost: float, best: float | None) -> str:
    if best is None:
        return "-"
    if cost <= best * (1 + 1e-9):
        return "1.000"
    return f"{cost / best:.3f}" if best > 0 else "∞"


def best_bound(problem: Problem, solution: Solution, budget: int, time_limit: float) -> float:
    """The best that is proven for all plans: at more and more moments, as far as the time goes."""
    bound, start = solution.lower_bound, time.perf_counter()
    for moments in (1, 3, 5, 7):
        left = time_limit - (time.perf_counter() - start)
        if left > 1 and solution.cost > bound * 1.001:
            looked_at = peak_moments(problem, solution.plan, moments)
            bound = max(bound, relaxed_bound(problem, budget, looked_at, time_limit=left))
    return min(bound, solution.cost)


def model(name: str, budgets: int, time_limit: float, largest: int) -> None:
    loss, arguments = loss_of(name)
    problem = problem_of_vjp(loss, *arguments).problem
    full, forward = simulate(problem, keep_all(problem)).peak, float(problem.cost.sum())
    solved, seconds = timed(lambda: explore(problem))
    assert isinstance(solved, Solved)
    others = {solver: explore(problem, solver) for solver in _OTHERS}
    console.print(
        f"[bold]{name}[/]: {problem.nodes} nodes, {problem.steps} steps, {full / 2**20:.0f} MiB with everything kept, "
        f"{solved.minimum / full:.1%} of it at least; optimal explored in {seconds:.1f} s"
    )
    headers = ("budget", "recomputed", "/ HiGHS", "/ its bound", "/ best bound", "step", "seconds", *_OTHERS)
    table = Table(*headers)
    for share in np.linspace(solved.minimum / full, 1, budgets + 1)[:-1].tolist():
        budget = max(int(share * full), solved.minimum)
        solution, asked = timed(lambda budget=budget: solved.solve(budget))
        referee = None
        if problem.nodes * problem.steps <= largest:
            referee = solve_milp(problem, budget, solution.plan, time_limit=time_limit)
        found = referee.plan.cost(problem) if referee and referee.plan else solution.cost
        bound = best_bound(problem, solution, budget, time_limit)
        costs = []
        for solver in _OTHERS:
            try:
                costs.append(ratio(others[solver].solve(budget).cost, solution.cost))
            except Infeasible:
                costs.append("none")
        table.add_row(
            f"{share:.1%}",
            f"{solution.cost / forward:.2%}",
            ratio(solution.cost, min(found, solution.cost)) if referee else "-",
            ratio(solution.cost, referee.lower_bound) if referee else "-",
            ratio(solution.cost, bound),
            ratio(3 * forward + solution.cost, 3 * forward + bound),
            f"{seconds + asked:.1f}",
            *costs,
        )
    console.print(table)


def chain_tables() -> None:
    """200 stages that keep all or nothing, and 500 slots of memory."""
    r = random.Random(0)
    sizes = [r.randint(1, 5) for _ in range(200)]
    stages = []
    for size in sizes:
        seconds, kept = r.randint(1, 9), r.randint(0, 5)
        nothing = Mode(0, seconds, seconds, size + 1, size + r.randint(1, 5), alone=True)
        everything = Mode(kept, seconds, 0, size + 1 + kept, size + kept + r.randint(1, 4))
        stages.append(Stage((nothing, everything), backward_base=r.randint(0, 3)))
    tables, seconds = timed(lambda: ChainTables(Chain.of(stages, sizes), 500))
    moves, reading = timed(lambda: list(tables.moves(250)))
    console.print(
        f"[bold]Chain[/]: 200 stages, 500 slots: {seconds:.2f} s; a plan of {len(moves)} moves {reading:.2f} s"
    )


def large(name: str, problem: Problem) -> None:
    full = simulate(problem, keep_all(problem)).peak
    solved, seconds = timed(lambda: explore(problem))
    console.print(
        f"[bold]{problem.nodes} nodes, {name}[/]: explored in {seconds:.1f} s, "
        f"at least {solved.minimum / full:.1%} of the memory"
    )
    table = Table("budget", "peak", "recomputed", "gap", "seconds in all")
    for share in (0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.7, 0.9):
        solution, asked = timed(lambda share=share: solved.solve(int(share * full)))
        table.add_row(
            f"{share:.0%}",
            f"{solution.peak / full:.2%}",
            f"{solution.cost / problem.cost.sum():.2%}",
            f"{solution.gap:.2%}",
            f"{seconds + asked:.1f}",
        )
    console.print(table)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", default=",".join(NETWORKS), help="names, by commas (default: %(default)s)")
    parser.add_argument("--budgets", type=int, default=8, help="budgets from the least to all (default: %(default)s)")
    parser.add_argument("--time-limit", type=float, default=60, help="seconds of HiGHS (default: %(default)s)")
    parser.add_argument("--largest", type=int, default=6000, help="nodes times steps (default: %(default)s)")
    parser.add_argument("--nodes", type=int, default=50_000, help="of the large program (default: %(default)s)")
    parser.add_argument("--no-models", action="store_true")
    parser.add_argument("--no-scale", action="store_true")
    args = parser.parse_args()
    if not args.no_scale:
        chain_tables()
        large("equal layers", deep_program(args.nodes))
        large("slower and faster layers", deep_program(args.nodes, alike=False))
        large("uneven layers", uneven_program(args.nodes))
    if not args.no_models:
        for name in args.models.split(","):
            model(name, args.budgets, args.time_limit, args.largest)


if __name__ == "__main__":
    main()
