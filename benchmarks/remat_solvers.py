"""The solvers of rematerialization beside each other and beside the optimum of HiGHS, on convolutional networks.

    taskset -c 0,1 python benchmarks/remat_solvers.py [--models VGG16,U-Net] [--budgets 4] [--limit SECONDS]
    taskset -c 0,1 python benchmarks/remat_solvers.py --large

Flax models of benchmarks/cases/convnets.py are differentiated, and their jaxprs are the problems. Budgets lie evenly
between the least bytes that a solver knows a plan for and what keeping everything takes. Costs are seconds of the
training step with what is computed again, relative to the step with HiGHS's plan (`/ MILP`), and to the best proven
bound (`/ bound`). Checkmate (Jain et al. 2020, table 2) reports its rounding within 1.06 of the optimum. `--large`
times `fast` and `optimal` on 500 and 50,000 nodes.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Iterator

os.environ.setdefault("JAX_PLATFORMS", "cpu")

import numpy as np
from cases.convnets import NETWORKS, loss_of
from rich.console import Console
from rich.table import Table

from zenith_mlir.remat.from_jaxpr import problem_of_vjp
from zenith_mlir.remat.problem import Problem
from zenith_mlir.remat.schedule import keep_all, simulate
from zenith_mlir.remat.solve import Infeasible, explore, solve

SOLVERS = ("optimal", "fast", "chain", "cut", "sqrt", "greedy")
Row = tuple[str, ...]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", default=",".join(NETWORKS))
    parser.add_argument("--budgets", type=int, default=4)
    parser.add_argument("--limit", type=float, default=60, help="seconds for HiGHS")
    parser.add_argument("--large", action="store_true")
    arguments = parser.parse_args()
    columns = ("problem", "what", "seconds", "gap") if arguments.large else COLUMNS
    table = Table(*columns)
    for row in large() if arguments.large else networks(arguments):
        table.add_row(*row)
        print("\t".join(row), flush=True)
    Console(width=160).print(table)


COLUMNS = ("model", "nodes", "budget", *(f"{name} / MILP" for name in SOLVERS), "optimal / bound", "gap", "s", "MILP s")


def networks(arguments: argparse.Namespace) -> Iterator[Row]:
    for name in arguments.models.split(","):
        loss, values = loss_of(name)
        problem = problem_of_vjp(loss, *values).problem
        step = float(problem.cost.sum()) * 3  # a backward takes about twice as long as its forward
        full = simulate(problem, keep_all(problem)).peak
        start = time.perf_counter()
        least = explore(problem, "optimal").minimum
        seconds = time.perf_counter() - start
        for budget in np.linspace(least, full, arguments.budgets + 1)[:-1].astype(int).tolist():
            start = time.perf_counter()
            referee = solve(problem, budget, "milp", time_limit=arguments.limit)
            referee_seconds = time.perf_counter() - start
            ours = solve(problem, budget, "optimal")
            costs = [cost(problem, budget, solver) for solver in SOLVERS]
            bound = step + max(referee.lower_bound, ours.lower_bound)
            ratios = ["-" if c is None else f"{(step + c) / (step + referee.cost):.3f}" for c in costs]
            yield (
                name, str(problem.nodes), f"{budget / full:.0%}", *ratios, f"{(step + ours.cost) / bound:.3f}",
                f"{ours.gap:.1%}", f"{seconds:.1f}", f"{referee_seconds:.0f}",
            )  # fmt: skip


def cost(problem: Problem, budget: int, solver: str) -> float | None:
    try:
        return solve(problem, budget, solver).cost
    except Infeasible:
        return None


def large() -> Iterator[Row]:
    for blocks in (100, 10_000):
        problem = residual_blocks(blocks)
        full = simulate(problem, keep_all(problem)).peak
        for solver in ("fast", "optimal"):
            start = time.perf_counter()
            found = explore(problem, solver)
            for share in (0.3, 0.5, 0.7):
                solution = found.solve(int(share * full))
                seconds = time.perf_counter() - start
                yield f"{problem.nodes} nodes", f"{solver}, {share:.0%}", f"{seconds:.1f}", f"{solution.gap:.2%}"


def residual_blocks(blocks: int) -> Problem:
    """A deep network: in each block a product, an activation, a product, a sum with what came in, and a norm."""
    rng = np.random.default_rng(0)
    operands: list[list[int]] = []
    before = -1
    for block in range(blocks):
        first = 5 * block
        operands += [
            [before] if before >= 0 else [],
            [first],
            [first + 1],
            [first + 2, *([before] if before >= 0 else [])],
        ]
        operands += [[first + 3]]
        before = first + 4
    count = len(operands)
    sizes = (np.tile([4, 4, 1, 1, 1], blocks) * rng.uniform(0.5, 1.5, count) * 2**20).astype(int)
    costs = np.tile([4.0, 0.3, 4.0, 0.1, 0.2], blocks) * rng.uniform(0.5, 1.5, count) * 1e-3
    return Problem.of(costs.tolist(), sizes.tolist(), operands, [[i, *operands[i]] for i in reversed(range(count))])


if __name__ == "__main__":
    main()
