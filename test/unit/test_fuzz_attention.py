"""Random programs: raising changes none of them, lowering is sound for all, and the fuzzer sees it where that fails."""

from __future__ import annotations

from typing import Any

import pytest
from attention_fuzz import BATCH, Choices, Program, batch, check_batch, choices, smallest, write
from attention_fuzz.check import _fingerprints
from attention_fuzz.choices import OPTIONS, STILL_ATTENTION
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from jaxlib.mlir import ir

import zenith_mlir as zenith
from zenith_mlir.match.attention import logits
from zenith_mlir.match.attention.logits import RawStep

pytestmark = pytest.mark.once

SEED = 20
BATCHES = 6


@pytest.mark.once
@pytest.mark.parametrize("number", range(BATCHES))
def test_random_programs_keep_their_numbers(number: int) -> None:
    verdicts = check_batch(batch(SEED, number), SEED)
    failed = [(str(v.program.choices), v.changed, v.unsound) for v in verdicts if v.failed]
    assert not failed, failed
    # A fuzzer that lowers nothing finds nothing.
    assert sum(v.lowered > 0 for v in verdicts) >= BATCH // 4
    assert all(len(v.missed) <= 1 for v in verdicts), [v.missed for v in verdicts]


random_choices = st.builds(
    lambda dtype, parts: Choices(dtype).having(**parts),
    st.sampled_from(["float32", "bfloat16", "float16"]),
    st.fixed_dictionaries({part: st.sampled_from(options) for part, options in OPTIONS.items()}),
)
QUIETLY = settings(max_examples=40, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])


@pytest.mark.once
@QUIETLY
@given(random_choices)
def test_raising_changes_nothing_and_says_at_most_one_thing(chosen: Choices) -> None:
    """Every part at random, none left out: programs far from what anybody writes."""
    (verdict,) = check_batch([write(chosen)], sets=())
    assert not verdict.changed
    assert verdict.raised + len(verdict.missed) <= 1


@QUIETLY
@given(random_choices, st.sampled_from(sorted(OPTIONS)))
def test_the_simplest_program_is_no_larger(chosen: Choices, needed: str) -> None:
    """A failure that hangs on one part leaves that part."""
    found = smallest(chosen, lambda tried: tried[needed] == chosen[needed])
    assert dict(found.parts) == {part: option for part, option in chosen.parts if part == needed}


def test_a_seed_gives_the_same_programs() -> None:
    assert [p.text for p in batch(3, 1)] == [p.text for p in batch(3, 1)]
    assert [p.text for p in batch(3, 1)] != [p.text for p in batch(4, 1)]
    assert {p.choices.dtype for p in batch(3, 1)} == {"bfloat16"}


def test_half_of_the_programs_are_not_attention() -> None:
    drawn = [choices(0, number, i) for number in range(20) for i in range(BATCH)]
    assert 0.3 < sum(c.is_attention for c in drawn) / len(drawn) < 0.8
    assert set(OPTIONS["twist"]) == {c["twist"] for c in drawn}
    assert set(OPTIONS["twist"]) >= STILL_ATTENTION


@pytest.mark.parametrize(("part", "option"), [(p, o) for p, options in OPTIONS.items() for o in options[1:]])
def test_each_option_is_a_program(part: str, option: str) -> None:
    """Alone, with what it needs: masks to be read, columns to be sliced off."""
    needed = {"masked": {"mask": "keys"}, "scrub": {"mask": "keys"}, "post": {"mask": "keys"}, "fill": {"band": "iota"}}
    program = write(Choices().having(**{**needed.get(part, {}), part: option}))
    assert program.text.startswith("def program(") and "return o" in program.text
    compile(program.text, "<program>", "exec")


def one(**parts: str) -> Program:
    return write(Choices().having(**parts))


def test_a_wrong_step_is_reported_and_reduced_to_what_it_needs(monkeypatch: pytest.MonkeyPatch) -> None:
    """The matcher is made to read x / c as x * c."""

    def wrong(op: ir.Operation, view: Any) -> Any:
        return [(0, RawStep("scale", op, value=3.0))]

    monkeypatch.setitem(logits._STEPS, "stablehlo.divide", wrong)
    busy = {"scale": "over", "bias": "keys", "band": "tril", "q": "rows first", "v": "reversed", "softmax": "hand"}
    good, bad = check_batch([one(scale="times", bias="all"), one(**busy)])
    assert not good.failed
    assert bad.lowered and bad.unsound and "ordinary" in bad.unsound[0]
    found = smallest(bad.program.choices, lambda tried: check_batch([write(tried)], sets=("ordinary",))[0].failed)
    assert found.parts == (("scale", "over"),)


def test_a_band_that_is_one_off_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    from zenith_mlir.match.attention import steps

    def wrong(*args: Any) -> Any:
        read = recover(*args)
        for band in read.bands:
            object.__setattr__(band, "high", None if band.high is None else band.high + 1)
        return read

    recover = steps.recover
    monkeypatch.setattr(steps, "recover", wrong)
    verdicts = check_batch([one(band="iota"), one(mask="keys")])
    assert [v.failed for v in verdicts] == [True, False]


def test_another_number_is_another_fingerprint() -> None:
    """What says that raising has changed a program."""
    text = zenith.trace(lambda x: x * 2.0 + 1.0, 1.0).text()
    same, other = zenith.Module.parse(text), zenith.Module.parse(text.replace("2.0", "3.0"))
    assert _fingerprints(same) == _fingerprints(zenith.Module.parse(text)) != _fingerprints(other)
