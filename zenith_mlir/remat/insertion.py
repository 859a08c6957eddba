"""What to recompute in a module under a budget, decided by the solvers on the model of its memory, and done."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from jaxlib.mlir import ir

from zenith_mlir.ir.facts import defining_op
from zenith_mlir.ir.symbols import functions
from zenith_mlir.module import Module
from zenith_mlir.remat.costs import Rates
from zenith_mlir.remat.from_module import Program, program_of
from zenith_mlir.remat.rewrite import apply
from zenith_mlir.remat.scan import Scan, scans
from zenith_mlir.remat.schedule import Plan, keep_all, simulate
from zenith_mlir.remat.solve import Infeasible, Solution, Solved, explore, solve

__all__ = ["Choice", "Insertion", "Model", "entry_block"]


# Loops are asked to stack less so many times at most.
_STEPS = 32


@dataclass(frozen=True)
class Model:
    """What a module needs before anything is recomputed: the simulated `peak` of temporaries, in bytes, and the
    `residuals` of it that the backward reads from the forward.
    """

    peak: int
    residuals: int

    @classmethod
    def of(cls, module: Module, rates: Rates) -> Model:
        problem = program_of(entry_block(module), module.operation, rates).problem
        return cls(simulate(problem, keep_all(problem)).peak, problem.residual_bytes)


@dataclass(frozen=True)
class Choice:
    """What becomes of a value that the backward needs: `choice` is "keep" or "recompute"; `cost` in seconds."""

    op: ir.Operation
    value: str
    choice: str
    bytes: int
    cost: float


@dataclass(frozen=True)
class Insertion:
    """A decision: for each loop that stacks residuals the nodes to stack (None: as it is), and the plan for what is
    outside of loops (None: nothing is recomputed). `peak` is what the model says of the result in bytes, `cost` the
    seconds that it takes longer, `lower_bound` what it takes longer at least.
    """

    kept: tuple[frozenset[int] | None, ...]
    plan: Plan | None
    peak: int
    cost: float
    lower_bound: float

    @classmethod
    def solve(cls, module: Module, budget: int, solver: str, rates: Rates) -> Insertion:
        """The cheapest found whose peak is at most `budget` bytes. `module` is left alone.

        Raises:
            Infeasible: if none was found; it states the least budget for which there is one.
        """
        loops = scans(entry_block(module), module.operation, rates)
        explored = [explore(scan.problem, solver) for scan in loops]
        stacked = sum(scan.stacked_bytes for scan in loops)
        saved = Model.of(module, rates).peak - budget
        infeasible: dict[tuple[frozenset[int] | None, ...], Infeasible] = {}
        while True:
            solutions = [_solve_loop(s, each, saved, stacked) for s, each in zip(loops, explored, strict=True)]
            kept = tuple(
                None if solution is None else simulate(scan.problem, solution.plan).kept
                for scan, solution in zip(loops, solutions, strict=True)
            )
            try:
                if kept in infeasible:
                    raise infeasible[kept]
                rest = _solve_rest(module.clone(), kept, budget, solver, rates)
                break
            except Infeasible as error:
                if saved >= stacked:
                    raise
                # What loops compute again takes memory itself, so they have to stack even less.
                infeasible[kept] = error
                saved += max(error.minimum - budget, stacked // _STEPS + 1)
        found = [rest, *(solution for solution in solutions if solution is not None)]
        return cls(
            kept,
            rest.plan if any(rest.plan.recompute) else None,
            rest.peak,
            float(sum(solution.cost for solution in found)),
            float(sum(solution.lower_bound for solution in found)),
        )

    @property
    def is_empty(self) -> bool:
        """Whether nothing is recomputed."""
        return self.plan is None and all(nodes is None for nodes in self.kept)

    def apply(self, module: Module, rates: Rates, tell: Callable[[Choice], None] = lambda _: None) -> None:
        """Carry it out on the module that it was made for, or a copy. `tell` is told what becomes of each value, before
        anything does.
        """
        block = entry_block(module)
        loops = scans(block, module.operation, rates)
        for scan, nodes in zip(loops, self.kept, strict=True):
            if nodes is not None:
                for choice in _loop_choices(scan, nodes):
                    tell(choice)
        _keep(loops, self.kept)
        if self.plan is not None:
            program = program_of(block, module.operation, rates)
            for choice in _choices(program, self.plan):
                tell(choice)
            apply(program, self.plan)


def entry_block(module: Module) -> ir.Block:
    """The body of `main`."""
    block: ir.Block = functions(module.operation)["main"].regions[0].blocks[0]
    return block


def _keep(loops: Sequence[Scan], kept: Sequence[frozenset[int] | None]) -> None:
    for scan, nodes in zip(loops, kept, strict=True):
        if nodes is not None:
            scan.keep(nodes)


def _solve_loop(scan: Scan, explored: Solved, saved: int, stacked: int) -> Solution | None:
    """What a loop that stacks its part of `stacked` bytes recomputes to take its part of `saved` less; as little memory
    as possible where that cannot be, None where there is nothing to do.
    """
    if saved <= 0:
        return None
    budget = scan.stacked_bytes - min(saved * scan.stacked_bytes // stacked, scan.stacked_bytes)
    return explored.solve(max(budget, explored.minimum))


def _solve_rest(
    module: Module, kept: Sequence[frozenset[int] | None], budget: int, solver: str, rates: Rates
) -> Solution:
    """What is recomputed outside of loops that stack `kept`. `module` is changed on the way."""
    block = entry_block(module)
    _keep(scans(block, module.operation, rates), kept)
    return solve(program_of(block, module.operation, rates).problem, budget, solver)


def _choices(program: Program, plan: Plan) -> list[Choice]:
    problem = program.problem
    again = {i for batch in plan.recompute for i in batch}
    return [
        Choice(
            program.flow.ops[program.nodes[i]],
            problem.names[i],
            "recompute" if i in again else "keep",
            int(problem.bytes[i]),
            float(problem.cost[i]) if i in again else 0.0,
        )
        for i in problem.needed.tolist()
    ]


def _loop_choices(scan: Scan, nodes: frozenset[int]) -> list[Choice]:
    problem = scan.problem
    needed = set(problem.needed.tolist())
    return [
        Choice(
            defining_op(scan.values[i][0]) or scan.loop.op,
            problem.names[i],
            "keep" if i in nodes else "recompute",
            int(problem.bytes[i]),
            0.0 if i in nodes else float(problem.cost[i]),
        )
        for i in sorted(needed | nodes)
    ]
