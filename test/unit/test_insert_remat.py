"""insert-remat: the budget is met in what XLA allocates, results stay, and everything else is said or left alone."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from remat_programs import Program, chain, convolutions, normal, scanned, transformer

import zenith_mlir as zenith
from zenith_mlir.ir.compiler_options import required
from zenith_mlir.ir.facts import walk_named
from zenith_mlir.remat.costs import Rates
from zenith_mlir.remat.from_module import program_of
from zenith_mlir.remat.insertion import entry_block
from zenith_mlir.remat.rewrite import apply
from zenith_mlir.remat.schedule import Plan, lazily
from zenith_mlir.target import Target

BARRIER = "stablehlo.optimization_barrier"
RATES = Rates.of(Target.parse("cpu"))


def prepared(program: Program) -> zenith.Module:
    function, arguments = program
    return zenith.trace(function, *arguments).run("prepare")


def results(module: zenith.Module, program: Program) -> list[np.ndarray]:
    return [np.asarray(value) for value in module.compile("cpu")(*jax.tree.leaves(program[1]))]


class Original:
    """What a program computes, and what it would compute in float64."""

    def __init__(self, before: zenith.Module, program: Program) -> None:
        function, arguments = program
        self.program = program
        self.results = results(before, program)
        with jax.enable_x64(True):
            wide = jax.tree.map(lambda a: np.asarray(a, np.float64) if a.dtype == np.float32 else a, arguments)
            self.exact = [np.asarray(value) for value in jax.tree.leaves(function(*wide))]

    def assert_kept_by(self, after: zenith.Module) -> None:
        """Against float64 the rewritten program errs no more than twice as much as the original, up to one rounding."""
        for was, now, exact in zip(self.results, results(after, self.program), self.exact, strict=True):
            rounding = np.finfo(np.float32).eps * np.abs(exact).max()
            assert np.abs(now - exact).max() <= 2 * np.abs(was - exact).max() + rounding


def temporaries(module: zenith.Module) -> int:
    return int(module.compile("cpu").memory_analysis().temp_size_in_bytes)


def only(module: zenith.Module, kind: str) -> Any:
    (remark,) = (r for r in module.remarks if r.kind == kind and r.pass_name == "insert-remat")
    return remark


@pytest.mark.parametrize("program", [chain(12, 256), scanned(12, 256)], ids=["chain", "scan"])
def test_the_budget_is_met_in_what_xla_allocates(program: Program) -> None:
    before = prepared(program)
    plain = temporaries(before)
    budget = plain * 2 // 3
    after = before.run(f"insert-remat{{budget={budget}}}")
    assert temporaries(after) <= budget
    told = only(after, "passed")
    assert told.args["measured"] == temporaries(after) and told.args["before"] == plain
    Original(before, program).assert_kept_by(after)


def test_half_of_the_residuals_in_a_transformer_through_its_kernels() -> None:
    program = transformer(2, 2, 16, 16)
    before = prepared(program)
    after = before.run("insert-remat{budget=50% measure=false}")
    assert walk_named(after.operation, BARRIER)
    original = Original(before, program)
    original.assert_kept_by(after)
    fused = before.run(
        "raise-attention,raise-layernorm,raise-activation,insert-remat{budget=70% measure=false},"
        "lower-kernels{min-seq=0 cost-model=false}"
    )
    assert walk_named(fused.operation, "stablehlo.custom_call")
    original.assert_kept_by(fused)


PROGRAMS: dict[str, Callable[[], Program]] = {
    "chain": lambda: chain(4, 8, 8),
    "transformer": lambda: transformer(1, 1, 8, 8),
    "convolutions": lambda: convolutions(1, 8, 4),
}


@pytest.mark.parametrize("name", PROGRAMS)
def test_any_plan_leaves_the_results(name: str) -> None:
    """Random choices of what to keep, and everything computed again before every step that uses it."""
    program = PROGRAMS[name]()
    before = prepared(program)
    problem = program_of(entry_block(before), before.operation, RATES).problem
    rng = np.random.default_rng(0)
    plans = [
        lazily(problem, np.flatnonzero(rng.random(problem.nodes) < 0.4).tolist()),
        _from_scratch_each_time(problem),
    ]
    original = Original(before, program)
    for plan in plans:
        after = before.clone()
        apply(program_of(entry_block(after), after.operation, RATES), plan)
        assert after.operation.verify()
        original.assert_kept_by(after)


def _from_scratch_each_time(problem: Any) -> Plan:
    def cone(nodes: Any) -> set[int]:
        found, stack = set(), list(nodes)
        while stack:
            if (i := stack.pop()) not in found:
                found.add(i)
                stack.extend(problem.operands[i])
        return found

    return Plan(tuple(tuple(sorted(cone(uses))) for uses in problem.uses))


def test_random_bits_are_drawn_once() -> None:
    """An rng_bit_generator is kept; what is made of its bits may be computed again."""

    def step(w: jax.Array, x: jax.Array, key: jax.Array) -> Any:
        def loss(w: jax.Array) -> jax.Array:
            y = x
            for _ in range(4):
                _, bits = jax.lax.rng_bit_generator(key, (256, 64), dtype=jnp.uint32)
                y = jnp.tanh(y @ w) * (bits > jnp.uint32(2**31))
            return (y**2).mean()

        return jax.value_and_grad(loss)(w)

    program = step, (normal(0, 64, 64), normal(1, 256, 64), np.arange(4, dtype=np.uint32))
    before = prepared(program)
    after = before.run("insert-remat{budget=70% measure=false}")
    assert walk_named(after.operation, BARRIER)
    drawn = [len(walk_named(m.operation, "stablehlo.rng_bit_generator")) for m in (before, after)]
    assert drawn[0] == drawn[1] > 0
    np.testing.assert_allclose(results(after, program)[1], results(before, program)[1], rtol=1e-5)


def test_gradients_alone_have_a_backward_too() -> None:
    function, arguments = chain(8, 512)
    gradients = prepared((lambda *a: function(*a)[1], arguments))
    assert walk_named(gradients.run("insert-remat{budget=60% measure=false}").operation, BARRIER)


@pytest.mark.parametrize("options", ["", "measure=false"])
def test_what_cannot_be_met_says_the_minimum(options: str) -> None:
    module = prepared(chain(8, 512))
    with pytest.raises(zenith.PassError, match=r"infeasible: .* minimum is \d+ .*; give at least that") as failure:
        module.run(f"insert-remat{{budget=1kB {options}}}")
    minimum = int(str(failure.value).split("minimum is ")[1].split()[0])
    assert module.run(f"insert-remat{{budget={minimum} {options}}}").remarks


@pytest.mark.parametrize(
    "function",
    [
        lambda x: jnp.tanh(jnp.tanh(x) @ x),
        lambda x: jax.value_and_grad(lambda x: (jnp.sin(x[0]) ** 2).sum())(x),
    ],
    ids=["forward", "little"],
)
def test_programs_without_a_backward_are_left_alone(function: Callable[..., Any]) -> None:
    module = prepared((function, (normal(0, 512, 512),)))
    after = module.run("insert-remat")
    assert after.text() == module.text()
    assert "there is no backward, or it needs little" in only(after, "analysis").reason


def test_a_budget_that_is_met_already_changes_nothing() -> None:
    module = prepared(chain())
    after = module.run("insert-remat{budget=1GiB}")
    assert after.text() == module.text()
    assert "fit 1.0 GiB as they are" in only(after, "analysis").reason


def test_remarks_say_what_becomes_of_each_value() -> None:
    after = prepared(chain(8, 512)).run("insert-remat{budget=60% measure=false}")
    choices = [r.args for r in after.remarks if r.kind == "analysis"]
    assert {c["choice"] for c in choices} == {"keep", "recompute"}
    assert sum(c["bytes"] for c in choices if c["choice"] == "keep") <= sum(c["bytes"] for c in choices) * 0.6
    assert all(c["cost"] > 0 for c in choices if c["choice"] == "recompute")
    assert {r.file for r in after.remarks if r.kind == "analysis"} == {
        __file__.replace("unit/test_insert_remat", "remat_programs")
    }


def test_plain_jit_gets_the_option_that_keeps_barriers() -> None:
    """Without it XLA:CPU would merge repetitions with their originals."""
    function, arguments = chain(16, 512)
    plain = jax.jit(function).lower(*arguments).compile().memory_analysis().temp_size_in_bytes
    lowered = zenith.jit(function, "prepare,insert-remat{budget=60% measure=false}", strict=True).lower(*arguments)
    assert required(lowered.compiler_ir("stablehlo"))
    assert lowered.compile().memory_analysis().temp_size_in_bytes < 0.8 * plain
