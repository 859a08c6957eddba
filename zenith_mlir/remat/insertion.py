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
from zenith_mlir.remat.solve import Infeasible, Solution, solve

__all__ = ["Choice", "Insertion", "Model", "entry_block"]


class _MoreInLoops(Exception):
    """What is recomputed in loops takes memory itself, so that they have to stack so many `bytes` less."""

    def __init__(self, bytes: int) -> None:
        super().__init__(bytes)
        self.bytes = bytes


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
        excess = Model.of(module, rates).peak - budget
        while True:
            try:
                return cls._saving(module.clone(), excess, budget, solver, rates)
            except _MoreInLoops as more:
                excess += more.bytes

    @classmethod
    def _saving(cls, module: Module, excess: int, budget: int, solver: str, rates: Rates) -> Insertion:
        """As `solve`, with loops that stack `excess` bytes less. `module` is changed on the way.

        Raises:
            _MoreInLoops: if they have to, and can, stack even less.
        """
        block = entry_block(module)
        loops = scans(block, module.operation, rates)
        stacked = sum(scan.stacked_bytes for scan in loops)
        solutions = [_solve_loop(scan, excess, stacked, solver) for scan in loops]
        kept = tuple(
            None if solution is None else simulate(scan.problem, solution.plan).kept
            for scan, solution in zip(loops, solutions, strict=True)
        )
        _keep(loops, kept)
        program = program_of(block, module.operation, rates)
        try:
            rest = solve(program.problem, budget, solver)
        except Infeasible as infeasible:
            if excess < stacked:
                raise _MoreInLoops(max(infeasible.minimum - budget, 1)) from infeasible
            raise
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


def _solve_loop(scan: Scan, excess: int, total: int, solver: str) -> Solution | None:
    """What a loop that stacks its part of `total` bytes recomputes to take its part of `excess` less; as little memory
    as possible where that cannot be, None where there is nothing to do.
    """
    if excess <= 0:
        return None
    budget = scan.stacked_bytes - min(excess * scan.stacked_bytes // total, scan.stacked_bytes)
    try:
        return solve(scan.problem, budget, solver)
    except Infeasible as infeasible:
        return solve(scan.problem, infeasible.minimum, solver)


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
