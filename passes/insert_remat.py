"""insert-remat: values of the forward are computed again in the backward instead of being kept, under a budget."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from zenith_mlir.context import PassContext
from zenith_mlir.errors import ZenithError
from zenith_mlir.ir.compiler_options import KEEP_BARRIERS, LATE_CONVERSIONS, require, withdraw
from zenith_mlir.ir.symbols import functions
from zenith_mlir.memory.sizes import Budget, format_bytes
from zenith_mlir.module import Module
from zenith_mlir.registry import Pass, option, register
from zenith_mlir.remat.closed_loop import Allocation, Goal, Saving, Tried, search, temporary_bytes
from zenith_mlir.remat.costs import Rates
from zenith_mlir.remat.insertion import Choice, Insertion, Model
from zenith_mlir.remat.solve import Infeasible

HALF = Budget.parse("50%")
Solver = Literal["optimal", "fast", "chain", "cut", "sqrt", "greedy"]


@register("insert-remat")
@dataclass(frozen=True)
class InsertRemat(Pass):
    """Compute values of the forward again in the backward instead of keeping them, so that the temporary memory of a
    training step stays within a budget.

    `budget=2GiB` bounds what XLA allocates for temporaries; `budget=50%` lets the values of the forward take half of
    the bytes that it keeps for the backward now. A solver (zenith_mlir.remat) chooses what costs least to compute
    again. Repetitions stand behind an optimization_barrier with the cotangents that wait there; of a scan, stacks of
    residuals go and the backward loop computes their rows again.

    With `measure`, where the target is present, the result is compiled and the model corrected by what XLA allocates,
    at most three times; what allocates no less than the program as it is is not used. XLA:CPU has to be told to leave
    barriers in: the module carries the option, `Module.compile` and the hook pass it on. A budget that cannot be met
    is an error that states the minimum. Expects calls to be inlined (run `prepare` before).
    """

    budget: Budget = option(HALF, "bytes of temporaries, or the share of the residuals to live on")
    solver: Solver = option("optimal", "what decides")
    measure: bool = option(True, "compile, and correct the model of memory by what XLA allocates")
    min_bytes: int = option(64 * 1024, "leave programs whose backward needs fewer bytes of the forward alone")

    def run(self, module: Module, ctx: PassContext) -> None:
        main = functions(module.operation).get("main")
        if main is None:
            return
        rates = Rates.of(ctx.target)
        model = Model.of(module, rates)
        if model.residuals < self.min_bytes:
            reason = "there is no backward, or it needs little of the forward"
            ctx.analysis(main, "", reason, residuals=model.residuals)
            return
        budget = model.peak - model.residuals + self.budget.of(model.residuals)
        if self.budget.bytes is not None:
            budget = self.budget.bytes
        before = temporary_bytes(module, ctx) if self.measure else None
        if self.budget.bytes is not None and (model.peak if before is None else before) <= budget:
            ctx.analysis(main, "", f"temporaries fit {format_bytes(budget)} as they are", measured=before)
            return
        best = self._decide(module, ctx, rates, model, budget, before)
        if before is not None and best.measured >= before:
            reason = f"recomputing saves nothing: XLA allocates {best.measured} bytes with it and {before} without"
            ctx.missed(main, "", reason, "the outputs may leave room for all temporaries")
            return
        args: dict[str, Any] = {"before": before, "measured": best.measured} if before is not None else {}
        insertion = best.insertion
        best.insertion.apply(module, rates, lambda choice: _report(choice, ctx))
        _keep_barriers(module)
        ctx.passed(
            main,
            "",
            budget=str(self.budget),
            predicted=insertion.peak,
            **args,
            cost=insertion.cost,
            lower_bound=insertion.lower_bound,
        )

    def _decide(
        self, module: Module, ctx: PassContext, rates: Rates, model: Model, budget: int, before: int | None
    ) -> Tried:
        """The cheapest decision within the budget; with a share for a budget, at least one that saves most."""

        def solve(bytes: int) -> Insertion:
            return Insertion.solve(module, bytes, self.solver, rates)

        def measure(insertion: Insertion) -> int:
            copy = module.clone()
            insertion.apply(copy, rates)
            _keep_barriers(copy)
            return temporary_bytes(copy, ctx) or 0

        try:
            if before is None:
                insertion = solve(budget)
                return Tried(insertion, insertion.peak)
            goal: Goal = Saving(before) if self.budget.bytes is None else Allocation(budget)
            tried = search(goal, goal.first_budget(budget, model.peak, before), solve, measure)
        except Infeasible as infeasible:
            raise _too_small(self.budget, budget, infeasible.minimum) from infeasible
        accepted = [each for each in tried if goal.accepts(each)]
        if accepted:
            return min(accepted, key=lambda each: each.insertion.cost)
        least = min(tried, key=lambda each: each.measured)
        if goal.is_measured:
            raise _too_small(self.budget, budget, least.measured)
        return least


def _keep_barriers(module: Module) -> None:
    """Have XLA:CPU compile `module` so that barriers do what they are for."""
    withdraw(module.ir, LATE_CONVERSIONS)
    require(module.ir, KEEP_BARRIERS)


def _too_small(asked: Budget, budget: int, minimum: int) -> ZenithError:
    return ZenithError(
        f"infeasible: the budget {asked} leaves {budget} bytes ({format_bytes(budget)}) for temporaries, minimum is "
        f"{minimum} ({format_bytes(minimum)}); give at least that, or offload values (annotate-offload)"
    )


def _report(choice: Choice, ctx: PassContext) -> None:
    ctx.analysis(
        choice.op,
        "",
        f"{choice.choice} {choice.value}",
        value=choice.value,
        choice=choice.choice,
        bytes=choice.bytes,
        cost=choice.cost,
    )
