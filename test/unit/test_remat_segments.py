"""From kept values to segments, and what the simulated schedule of these says; nothing is compiled."""

from __future__ import annotations

from fractions import Fraction

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from zenith_mlir.memory.sizes import Budget
from zenith_mlir.remat.choose import choose
from zenith_mlir.remat.from_lines import problem_of_program
from zenith_mlir.remat.lines import Program
from zenith_mlir.remat.rates import RATES
from zenith_mlir.remat.schedule import keep_all, lazily, simulate
from zenith_mlir.remat.segments import Segments
from zenith_mlir.remat.solve import Infeasible

LAYERS = 5
W = np.ones((16, 16), "float32")
X = np.ones((64, 16), "float32")


def layers(ws, x):
    mask = jnp.arange(16) < 8
    for w in ws:
        x = x + jnp.where(mask, jnp.tanh(jnp.sin(x @ w) @ w), 0)
    return (x * x).sum()


def looped(ws, x):
    x, ys = jax.lax.scan(lambda x, w: (jnp.sin(jnp.tanh(x @ w)), jnp.exp(x)), jnp.sin(x), jnp.stack(ws))
    return jnp.tanh(x).sum() + ys.sum()


def stated(f):
    program = Program.of(jax.make_jaxpr(f)([W] * LAYERS, X))
    return program, *problem_of_program(program, RATES["cpu"])


def test_the_problem_of_a_program():
    program, problem, level, steps = stated(layers)
    names = [program.lines[at].name for at in level.nodes]
    # Views and iotas are no nodes.
    assert set(names) == {"lt", "dot_general", "sin", "tanh", "select_n", "add", "mul", "reduce_sum"}
    # The backward runs from the end, and its steps use something: not those of additions, selects and sums alone.
    assert steps == sorted(steps, reverse=True)
    assert {program.lines[at].name for at in steps} == {"select_n", "dot_general", "sin", "tanh", "mul"}
    kept = {program.lines[at].name for at, node in level.nodes.items() if node in problem.needed}
    # The operands of products, of sin, the result of tanh, masks. x @ w for sin; the last x for its square.
    assert kept == {"dot_general", "sin", "tanh", "add", "lt"}
    assert problem.residual_bytes == X.nbytes * (LAYERS * 4) + 16


def is_product(program, at):
    return program.lines[at].name == "dot_general"


def test_boundaries_give_one_segment_a_layer():
    program, problem, level, steps = stated(layers)
    sums = [node for at, node in level.nodes.items() if program.lines[at].name == "add"]
    segments = Segments.of(problem, level, sums)
    heavy = [segment for segment in segments.segments if any(is_product(program, at) for at in segment.again)]
    assert len(heavy) == LAYERS
    # Each computes its own layer again. The mask, made before all of them, is computed again wherever it is used.
    for segment in segments.segments:
        assert sum(is_product(program, at) for at in segment.again if at >= segment.start) == 2 * (segment in heavy)
        before = {program.lines[at].name for at in segment.again if at < segment.start}
        assert before <= {"iota", "lt", "broadcast_in_dim"}
    timeline = simulate(problem, segments.plan(problem, level, steps))
    assert timeline.peak < simulate(problem, keep_all(problem)).peak / 2
    assert timeline.kept <= set(sums)


def test_without_boundaries_there_is_one_segment():
    _, problem, level, _ = stated(layers)
    again = [segment for segment in Segments.of(problem, level, []).segments if segment.again]
    assert len(again) == 1


@pytest.mark.parametrize("f", [layers, looped])
def test_any_choice_can_be_run(f):
    """Whatever is kept, the schedule of the segments has every value when it is used, and keeps no more."""
    program, problem, level, steps = stated(f)
    rng = np.random.default_rng(0)
    pinned = np.flatnonzero(~problem.repeatable).tolist()
    for share in np.linspace(0, 1, 20):
        keep = {*np.flatnonzero(rng.random(problem.nodes) < share).tolist(), *pinned}
        away = set(rng.permutation(problem.nodes)[:2].tolist()) - keep
        segments = Segments.of(problem, level, keep, away)
        timeline = simulate(problem, segments.plan(problem, level, steps))
        assert timeline.kept <= keep
        ends = [(segment.start, segment.stop) for segment in segments.segments]
        assert [a for a, _ in ends] == [0, *(b for _, b in ends[:-1])]
        assert ends[-1][1] == len(program.lines)


def test_little_is_computed_twice():
    _, problem, level, steps = stated(layers)
    rng = np.random.default_rng(1)
    for _ in range(20):
        keep = np.flatnonzero(rng.random(problem.nodes) < 0.4).tolist()
        plan = Segments.of(problem, level, keep).plan(problem, level, steps)
        assert plan.cost(problem) <= 1.021 * lazily(problem, keep).cost(problem)


def test_bodies_of_loops_count_as_often_as_they_turn():
    _, problem, level, steps = stated(looped)
    (at,) = level.bodies
    body = level.bodies[at]
    tanh = next(n for inner, n in body.nodes.items() if body.program.lines[inner].name == "tanh")
    assert problem.bytes[tanh] == LAYERS * X.nbytes
    assert problem.transient[tanh] == X.nbytes
    # What it carries has to be kept, and runs once.
    carry = problem.names.index("carry")
    assert not problem.repeatable[carry]
    assert problem.bytes[carry] == LAYERS * X.nbytes
    everything, nothing = (
        simulate(problem, Segments.of(problem, level, keep).plan(problem, level, steps)).peak
        for keep in (range(problem.nodes), np.flatnonzero(~problem.repeatable))
    )
    assert nothing < 0.8 * everything


@pytest.mark.parametrize("f", [layers, looped])
def test_what_is_chosen_fits(f):
    """As segments, which compute more at once than the plans that solvers find."""
    program, problem, level, steps = stated(f)
    full = simulate(problem, keep_all(problem)).peak
    with pytest.raises(Infeasible) as error:
        choose(program, "fast", Budget(bytes=1), RATES["cpu"])
    for budget in np.linspace(error.value.minimum, full, 6).astype(int).tolist():
        segments = choose(program, "fast", Budget(bytes=budget), RATES["cpu"])
        assert simulate(problem, segments.plan(problem, level, steps)).peak <= budget
    for share in (0.5, 0.9):
        segments = choose(program, "fast", Budget(share=Fraction(share)), RATES["cpu"])
        kept = simulate(problem, segments.plan(problem, level, steps)).kept
        assert problem.bytes[list(kept)].sum() <= share * problem.residual_bytes
