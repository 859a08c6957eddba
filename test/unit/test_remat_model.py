"""insert-remat's model of memory: what takes none of its own, and that stacks stay."""

from __future__ import annotations

from typing import NoReturn

import pytest
from remat_programs import scanned

import zenith_mlir as zenith
from zenith_mlir.remat import insertion
from zenith_mlir.remat.costs import Rates
from zenith_mlir.remat.flow import Flow
from zenith_mlir.remat.insertion import Model, entry_block
from zenith_mlir.remat.scan import scans
from zenith_mlir.remat.schedule import lazily, simulate
from zenith_mlir.remat.solve import Infeasible
from zenith_mlir.target import Target

SIZE = 64 * 4
RATES = Rates.of(Target.parse("cpu"))


def lengths(text: str) -> list[int]:
    """The bytes of each operation's result in the model."""
    module = zenith.load(text.replace("$", "tensor<64xf32>"))
    return [int(size) for size in Flow(entry_block(module)).bytes]


CHAIN = """
%0 = stablehlo.cosine %x : $
%1 = stablehlo.sine %0 : $
%2 = stablehlo.add %1, %y : $
return %2 : $
"""


def test_what_becomes_a_result_in_place_lies_in_its_room() -> None:
    text = f"func.func public @main(%x: $, %y: $) -> $ {{{CHAIN}}}"
    assert lengths(text) == [0, 0, 0]


@pytest.mark.parametrize("donated", ["{tf.aliasing_output = 0 : i32}", "{jax.buffer_donor = true}"])
def test_a_donated_argument_leaves_no_room(donated: str) -> None:
    text = f"func.func public @main(%x: $ {donated}, %y: $) -> $ {{{CHAIN}}}"
    assert lengths(text) == [SIZE, SIZE, 0]


def test_what_is_read_again_has_room_of_its_own() -> None:
    text = f"func.func public @main(%x: $, %y: $) -> $ {{{CHAIN.replace('%1, %y', '%1, %0')}}}"
    assert lengths(text)[0] == SIZE


def test_stacks_stay_while_the_backward_loop_runs() -> None:
    """A value that is read for the last time frees memory; a stack does not: keeping one costs all of it."""
    function, arguments = scanned()
    module = zenith.trace(function, *arguments).run("prepare")
    with module.context:
        (scan,) = scans(entry_block(module), module.operation, RATES)
        problem = scan.problem
        for keep in ([0], [0, 1], range(problem.nodes)):
            timeline = simulate(problem, lazily(problem, keep))
            assert timeline.peak == problem.bytes[sorted(timeline.kept)].sum()


def test_gradients_of_stacked_weights_are_no_temporaries() -> None:
    function, arguments = scanned(batch=4, width=64)
    module = zenith.trace(function, *arguments).run("prepare")
    measured = module.compile("cpu").memory_analysis().temp_size_in_bytes
    assert Model.of(module, RATES).peak == pytest.approx(measured, rel=0.25)


def test_loops_are_asked_for_less_a_few_times(monkeypatch: pytest.MonkeyPatch) -> None:
    """However little is missing outside of them, and whatever they can do about it."""
    function, arguments = scanned()
    module = zenith.trace(function, *arguments).run("prepare")
    budget, asked = Model.of(module, RATES).peak - 1, []

    def never(module: zenith.Module, kept: object, *_: object) -> NoReturn:
        asked.append(kept)
        raise Infeasible(budget, budget + 1, "optimal")

    monkeypatch.setattr(insertion, "_solve_rest", never)
    with pytest.raises(Infeasible):
        insertion.Insertion.solve(module, budget, "optimal", RATES)
    assert 1 < len(asked) == len(set(asked)) <= 33
