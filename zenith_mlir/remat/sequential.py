"""A chain of functions in segments, each computed again as a whole: equal ones, or those that a budget asks for."""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import jax
import numpy as np
from jax.extend.source_info_util import register_exclusion

from zenith_mlir import hook
from zenith_mlir.errors import OptionError
from zenith_mlir.memory.sizes import Budget
from zenith_mlir.remat.chain import Back, Chain, Mode, Run, Stage
from zenith_mlir.remat.chain_tables import ChainTables
from zenith_mlir.remat.flat_jaxpr import nbytes
from zenith_mlir.remat.from_lines import problem_of_program
from zenith_mlir.remat.lines import Program
from zenith_mlir.remat.policy import Policy
from zenith_mlir.remat.problem import Problem
from zenith_mlir.remat.rates import rates_here
from zenith_mlir.remat.schedule import Plan, keep_all, simulate
from zenith_mlir.remat.solve import Infeasible

__all__ = ["checkpoint_sequential"]

# Frames of this file are not the user's: JAX leaves them out of source locations.
register_exclusion(__file__)

# The memory of a chain is divided into so many parts: its plans are exact up to one for each stage.
_SLOTS = 400

Function = Callable[[Any], Any]


def checkpoint_sequential(
    functions: Sequence[Function],
    *,
    budget: str | int | Budget | None = None,
    segments: int | None = None,
    prevent_cse: bool = True,
) -> Function:
    """The function that applies `functions` one after the other, keeping only some of what passes between them.

        model = zenith.checkpoint_sequential([block] * 24, budget="2GiB")
        model = zenith.checkpoint_sequential([block] * 24, segments=5)

    With `segments`, the chain is cut into so many of equal length, and each runs under jax.checkpoint, as in torch's
    function of this name; without `segments` and `budget` into √n. With `budget`, the plan is the fastest that
    memory allows (Herrmann, Beaumont, Eyraud-Dubois et al. 2019, "Optimal checkpointing for heterogeneous chains"): it
    decides for each function whether all of its intermediate values wait, its input, or neither, and runs parts of the
    chain more than twice where it has to.

    Args:
        functions: Each takes what the one before returns, a pytree of arrays; parameters are bound to them.
        budget: Bytes (`"2GiB"`) that are live at one moment in the forward and backward of the chain, beside its
            argument, parameters and gradients; or a percentage of those of the chain without checkpoints.
        segments: How many, from 1 to the number of functions.
        prevent_cse: As in jax.checkpoint.

    Raises:
        OptionError: if there are no functions, for both `budget` and `segments`, or a number of segments that there
            cannot be.
        SizeError: for a budget that cannot be read.
        Infeasible: when called, if no plan fits the budget; `minimum` are the bytes that would do.
    """
    count = len(functions)
    if not count:
        raise OptionError("checkpoint_sequential takes one function or more, got none")
    if budget is not None and segments is not None:
        raise OptionError("give checkpoint_sequential a budget or a number of segments, not both")
    if segments is not None and not 1 <= segments <= count:
        raise OptionError(f"segments is a number from 1 to that of the functions, {count}, not {segments}")
    hook.install()
    bound = None if budget is None else Budget.parse(budget)
    equal = _Part.equal(count, segments or math.ceil(math.sqrt(count)))
    chosen: dict[Any, _Part] = {}

    def sequential(x: Any) -> Any:
        if bound is None:
            return equal.run(functions, x, prevent_cse)
        stages = list(_trace(functions, x))
        key = tuple(stage.signature for stage in stages)
        if key not in chosen:
            chosen[key] = _solve(stages, bound)
        return chosen[key].run(functions, x, prevent_cse)

    return sequential


@dataclass(frozen=True)
class _Part:
    """Functions `start` to `stop`, run as `parts`, or as they are. If `again`, their input is what is kept of them."""

    start: int
    stop: int
    again: bool
    parts: tuple[_Part, ...] = ()

    @classmethod
    def equal(cls, count: int, segments: int) -> _Part:
        ends = [count * k // segments for k in range(segments + 1)]
        return cls(0, count, False, tuple(cls(a, b, True) for a, b in pairwise(ends)))

    def run(self, functions: Sequence[Function], x: Any, prevent_cse: bool) -> Any:
        if not self.again:
            return self._inside(functions, x, prevent_cse)
        policy = Policy(jax.checkpoint_policies.nothing_saveable)
        body = jax.checkpoint(lambda x: self._inside(functions, x, prevent_cse), policy=policy, prevent_cse=prevent_cse)
        return body(x)

    def _inside(self, functions: Sequence[Function], x: Any, prevent_cse: bool) -> Any:
        if self.parts:
            for part in self.parts:
                x = part.run(functions, x, prevent_cse)
        else:
            for function in functions[self.start : self.stop]:
                x = function(x)
        return x


@dataclass(frozen=True, eq=False)
class _Traced:
    """A function of a chain, as a problem; `input` and `output` are bytes of its argument and result."""

    signature: Hashable
    problem: Problem
    input: int
    output: int

    def stage(self) -> Stage:
        """Its modes: keeping nothing but the input, and keeping all that its backward uses."""
        problem = self.problem
        pinned = np.flatnonzero(~problem.repeatable).tolist()
        again = tuple(i for i in range(problem.nodes) if problem.repeatable[i])
        at_once = Plan((again, *[()] * (problem.steps - 1))) if problem.steps else keep_all(problem)
        forward = float(problem.cost.sum())
        kept = int(problem.bytes[pinned].sum())
        return Stage(
            (
                self._mode(kept, forward, float(problem.cost[list(again)].sum()), at_once, alone=True),
                self._mode(problem.residual_bytes, forward, 0.0, keep_all(problem), alone=False),
            )
        )

    def _mode(self, kept: int, forward_cost: float, backward_cost: float, plan: Plan, *, alone: bool) -> Mode:
        live = simulate(self.problem, plan).live
        forward, backward = live[: self.problem.nodes], live[self.problem.nodes :]
        # Beside these are the result while the forward makes it, and in the backward the cotangents of both ends.
        return Mode(
            kept,
            forward_cost,
            backward_cost,
            int(forward.max(initial=0)) + self.output,
            int(backward.max(initial=0)) + self.output + self.input,
            alone=alone,
        )


def _trace(functions: Sequence[Function], x: Any) -> Iterator[_Traced]:
    """The functions, each for what the one before returns."""
    rates = rates_here()
    for function in functions:
        leaves, structure = jax.tree.flatten(x)

        def flat(*leaves: Any, function: Function = function, structure: Any = structure) -> Any:
            return function(jax.tree.unflatten(structure, leaves))

        program, x = Program.trace(flat, leaves)
        problem, _, _ = problem_of_program(program, rates)
        input_, output = (sum(map(nbytes, jax.tree.leaves(leaves))) for leaves in (program.types[: len(leaves)], x))
        yield _Traced(program.signature, problem, input_, output)


def _solve(traced: Sequence[_Traced], budget: Budget) -> _Part:
    """The fastest plan within the budget.

    Raises:
        Infeasible: if there is none.
    """
    known: dict[Hashable, Stage] = {}
    for one in traced:
        if one.signature not in known:
            known[one.signature] = one.stage()
    stages = [known[one.signature] for one in traced]
    chain = Chain.of(stages, [one.input for one in traced])
    # What every function keeps, and the worst moment of any.
    total = sum(one.problem.residual_bytes + one.input for one in traced)
    total += max(mode.backward_peak for stage in stages for mode in stage.modes)
    available = min(budget.of(total), total)
    slot = max(1, -(-available // _SLOTS))
    tables = ChainTables(chain, available // slot, slot)
    if not np.isfinite(tables.cost[-1]):
        slot = max(1, -(-total // _SLOTS))
        costs = ChainTables(chain, -(-total // slot), slot).cost
        raise Infeasible(budget.of(total), int(np.isfinite(costs).argmax()) * slot, "chain")
    moves = tables.moves(len(tables.cost) - 1)
    return _Part(0, len(stages), False, tuple(_first(moves, 0, len(stages))))


def _first(moves: Iterator[Run | Back], start: int, count: int) -> list[_Part]:
    """The parts that the first forward consists of, from the moves of a chain's plan for the stages from `start` on."""
    run = next(moves)
    assert isinstance(run, Run)
    rest = _first(moves, run.stop, count) if run.stop < count else []
    if run.mode or run.stop == count:
        back = next(moves)
        assert isinstance(back, Back)
        return [_Part(start, run.stop, again=not back.mode), *rest]
    return [_Part(start, run.stop, True, tuple(_again(moves, start, run.stop - 1))), *rest]


def _again(moves: Iterator[Run | Back], start: int, last: int) -> list[_Part]:
    """The parts that stages `start` to `last` are computed again in when their backward comes."""
    run = next(moves)
    if isinstance(run, Back):
        return [_Part(start, last + 1, False)]
    rest = _again(moves, run.stop, last)
    if run.mode:
        next(moves)
        return [_Part(start, run.stop, False), *rest]
    return [_Part(start, run.stop, True, tuple(_again(moves, start, run.stop - 1))), *rest]
