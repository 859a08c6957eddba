"""The dynamic program over chains, held to an enumeration of all schedules; stages and boundaries of problems."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import replace
from functools import cache

import numpy as np
import pytest

from zenith_mlir.remat.boundaries import Boundaries
from zenith_mlir.remat.chain import Back, Chain, Mode, Run, Stage
from zenith_mlir.remat.chain_plans import ChainPlans
from zenith_mlir.remat.chain_tables import ChainTables
from zenith_mlir.remat.problem import Problem
from zenith_mlir.remat.schedule import keep_all, simulate

pytestmark = pytest.mark.once

Moves = tuple[Run | Back, ...]


def some_chain(seed: int, length: int, modes: int) -> Chain:
    r = random.Random(seed)
    inputs = [*(r.randint(1, 4) for _ in range(length)), 0]
    bases = [r.randint(0, 3) for _ in range(length)]
    stages = []
    for s in range(length):
        seconds, output = r.randint(1, 9), inputs[s + 1]
        nothing = Mode(
            0, seconds, seconds + r.randint(0, 2), output + r.randint(0, 1), output + r.randint(1, 5), 1, True
        )
        chosen = [nothing]
        for _ in range(modes):
            span, kept, more = r.choice([1, 1, 2]) if modes > 1 else 1, r.randint(0, 4), r.randint(0, 1)
            if s + span > length:
                continue
            alone = span == 2 and r.random() < 0.5
            kept = 0 if alone else kept
            # No less than two stages one after the other need.
            forward_peak = nothing.forward_peak + kept + more + (8 if span == 2 else 0)
            backward_peak = output + kept + r.randint(0, 4)
            if alone:
                backward_peak = max(backward_peak, nothing.forward_peak + bases[s + 1])
            again = r.randint(0, seconds) + (9 if alone else 0)
            chosen.append(Mode(kept, seconds + 9 * (span - 1), again, forward_peak, backward_peak, span, alone))
        stages.append(Stage(tuple(chosen), base=r.randint(0, 3), backward_base=bases[s]))
    return Chain.of(stages, inputs[:length])


def schedules(chain: Chain) -> Iterator[Moves]:
    """Every schedule that keeps a checkpoint until the backward has passed it."""
    end = len(chain.stages)

    def first(s: int) -> Iterator[Moves]:
        for number, mode in enumerate(chain.stages[s].modes):
            stop = s + mode.span
            if stop == end:
                yield Run(s, stop, number, None), Back(s, number)
            elif stop < end and not mode.alone:
                yield from ((Run(s, stop, number, None), *rest, Back(s, number)) for rest in first(stop))
        for stop in range(s + 1, end):
            for rest in first(stop):
                yield from ((Run(s, stop, 0, None), *rest, *before) for before in again(s, stop - 1))

    @cache
    def again(s: int, t: int) -> list[Moves]:
        found: list[Moves] = []
        for number, mode in enumerate(chain.stages[s].modes):
            stop = s + mode.span
            if mode.alone and stop == t + 1:
                found.append((Back(s, number),))
            elif not mode.alone and stop <= t:
                found += [(Run(s, stop, number, t), *rest, Back(s, number)) for rest in again(stop, t)]
        for stop in range(s + 1, t + 1):
            found += [(Run(s, stop, 0, t), *rest, *before) for rest in again(stop, t) for before in again(s, stop - 1)]
        return found

    return first(0)


def run(chain: Chain, moves: Moves) -> tuple[float, int]:
    """Seconds and peak of a schedule, move by move."""
    sizes = chain.inputs[0]
    waiting: dict[tuple[str, int], int] = {}
    seconds, peak = 0.0, 0
    for move in moves:
        if isinstance(move, Back):
            mode = chain.stages[move.stage].modes[move.mode]
            waiting.pop(("mode", move.stage), None)
            peak = max(peak, sum(waiting.values()) + mode.backward_peak)
            seconds += mode.backward_cost
            waiting.pop(("input", move.stage), None)
            continue
        passed = [
            (s, chain.stages[s].modes[0], int(sizes[s]) if s > move.start else 0) for s in range(move.start, move.stop)
        ]
        if move.mode:
            mode = chain.stages[move.start].modes[move.mode]
            base = max(chain.stages[s].base for s, _, _ in passed)
            runs = [(base, mode, 0)]
        else:
            mode = chain.stages[move.start].modes[0]
            runs = [(chain.stages[s].base, each, there) for s, each, there in passed]
        for base, each, there in runs:
            base = base if move.before is None else chain.stages[move.before].backward_base
            peak = max(peak, sum(waiting.values()) + there + each.forward_peak + base)
            seconds += each.forward_cost if move.before is not None else 0
        if move.stop < len(chain.stages):
            waiting["input", move.stop] = int(sizes[move.stop])
            waiting["mode", move.start] = mode.bytes
    return seconds, peak


@pytest.mark.parametrize(
    ("length", "modes"), [(1, 1), (2, 2), (3, 2), (4, 2), (5, 2), (5, 3), (6, 1), (7, 1), (8, 0), (9, 0), (10, 0)]
)
def test_the_dynamic_program_is_optimal_for_every_budget(length, modes):
    chain, most = some_chain(length, length, modes), 80
    best = np.full(most + 1, np.inf)
    for moves in schedules(chain):
        seconds, peak = run(chain, moves)
        best[peak] = min(best[peak], seconds)
    best = np.minimum.accumulate(best)
    tables = ChainTables(chain, most)
    assert tables.cost.tolist() == best.tolist()
    for slots in np.flatnonzero(np.isfinite(best)).tolist():
        seconds, peak = run(chain, tuple(tables.moves(slots)))
        assert seconds == best[slots] and peak <= slots


def test_rounding_to_slots_does_not_add_up():
    """40 equal stages that keep 1.4 slots each: 56 slots together, neither 40 nor 80."""
    nothing = Mode(0, 1.0, 1.0, 1000, 1000, 1, True)
    stage = Stage((nothing, replace(nothing, bytes=1400, backward_cost=0.0, alone=False)))
    tables = ChainTables(Chain.of([stage] * 40, [0] * 40), 100, 1000)
    enough = int(np.flatnonzero(tables.cost == 0)[0])
    assert 54 <= enough <= 58


def chained(length: int) -> Problem:
    """Values of two sizes in turn, each of the one before, and a skip from 2 to the end; a step for each."""
    operands = [[i - 1] if i else [] for i in range(2 * length)]
    operands[-1] = [2 * length - 2, 2]
    return Problem.of(
        [1 + i % 3 for i in range(2 * length)],
        [3 if i % 2 else 5 for i in range(2 * length)],
        operands,
        [[i] for i in reversed(range(2 * length))],
    )


def test_what_crosses_is_what_later_nodes_and_earlier_steps_need():
    problem = Problem.of([1] * 5, [1, 2, 4, 8, 16], [[], [0], [1], [0, 2], [3]], [[4], [0, 3], [2], [1, 0], [0]])
    boundaries = Boundaries(problem)
    for position in range(1, 5):
        step = int(boundaries.step(np.array([position]))[0])
        later = {j for k in range(position, 5) for j in problem.operands[k] if j < position}
        used = {j for uses in problem.uses[:step] for j in uses if j < position}
        assert boundaries.crossing(position).tolist() == sorted(later | used)
        assert boundaries.bytes[position] == sum(problem.bytes[j] for j in later | used)
        assert all(j < position for uses in problem.uses[step:] for j in uses)
    between = boundaries.between(np.array([1, 3, 4]), problem.bytes)
    # 0 crosses all of them; 2 crosses 3, and 3 crosses 4.
    assert between.tolist() == [[0, 4, 8], [0, 0, 8], [0, 0, 0]]


def test_boundaries_are_where_little_crosses():
    # Values of 9 and 1 in turn: after those of 1.
    problem = Problem.of(
        [1] * 8, [9, 1] * 4, [[i - 1] if i else [] for i in range(8)], [[i] for i in reversed(range(8))]
    )
    assert Boundaries(problem).choose(8, 8).tolist() == [0, 2, 4, 6]
    assert len(Boundaries(problem).choose(3, 3)) == 3


@pytest.mark.parametrize("length", [3, 8])
def test_plans_of_the_chain_cost_what_it_says(length):
    problem = chained(length)
    plans = ChainPlans(problem)
    full = simulate(problem, keep_all(problem)).peak
    for slots in plans.slots.tolist():
        point = plans.point(slots)
        assert point.cost == pytest.approx(float(plans.tables.cost[slots]), rel=1e-5)
        assert simulate(problem, point.plan).peak == point.peak <= full


def test_a_chain_of_single_values_needs_what_its_plan_takes():
    """Without fusion and with bytes for slots the chain counts every byte of the schedule."""
    length = 9
    operands = [[i - 1] if i else [] for i in range(length)]
    problem = Problem.of([3, 1, 2] * 3, [2, 3, 1] * 3, operands, [[i] for i in reversed(range(length))])
    plans = ChainPlans(problem)
    assert plans.slot_bytes == 1
    for slots in plans.slots.tolist():
        assert plans.point(slots).peak <= slots
