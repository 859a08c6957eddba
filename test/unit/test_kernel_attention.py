"""The CPU attention kernel against the plain formula in float64.

The kernel may be at most twice as far from float64 as the plain formula in float32 is, plus a few units in the last
place, and has NaN and infinities exactly where that has them. Where it multiplies tiles of bfloat16, the plain formula
rounds its probabilities too, as a program in bfloat16 does.
"""

import dataclasses
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from zenith_mlir.kernels import cpu
from zenith_mlir.kernels.cpu import library
from zenith_mlir.kernels.cpu.attention import Opcode, Step, attention_call, attention_residuals_call
from zenith_mlir.kernels.reference import attention as reference

pytestmark = pytest.mark.once

SCALE = Step(Opcode.SCALE, 0.125)
BIG = -1e30
SMALLEST = float(jnp.finfo(jnp.float32).min)
NO_LIMIT = 2**62


def strides(axes: str, extents: Mapping[str, int], wanted: str) -> list[int]:
    """Strides of the letters `wanted` in an array with the axes `axes`, 0 for a letter it lacks."""
    return [int(np.prod([extents[a] for a in axes[axes.index(w) + 1 :]])) if w in axes else 0 for w in wanted]


@dataclasses.dataclass
class Problem:
    """Random operands in the layouts named by their axes, and the steps between them."""

    T: int = 70
    S: int = 150
    D: int = 64
    E: int = 64
    parallel: Mapping[str, int] = dataclasses.field(default_factory=lambda: {"b": 2, "h": 3})
    q: str = "bthd"
    k: str = "bshd"
    v: str = "bshe"
    out: str = "bthe"
    dtypes: tuple[str, str, str, str] = ("float32",) * 4  # of q, k, v, out
    modifiers: tuple[tuple[str, str], ...] = ()  # axes and dtype
    steps: tuple[Step, ...] = (SCALE,)
    seed: int = 0

    def __post_init__(self) -> None:
        self.extents = {**self.parallel, "t": self.T, "s": self.S, "d": self.D, "e": self.E}
        rng = np.random.default_rng(self.seed)

        def draw(axes: str, dtype: str) -> np.ndarray:
            normal = rng.normal(size=[self.extents[a] for a in axes])
            return normal > -0.5 if dtype == "bool" else normal.astype(jnp.dtype(dtype))

        self.arrays = [draw(a, t) for a, t in zip((self.q, self.k, self.v), self.dtypes, strict=False)]
        self.masks = [draw(a, t) for a, t in self.modifiers]

    def arguments(self) -> dict[str, Any]:
        p = "".join(self.parallel)
        return {
            "dims": list(self.parallel.values()),
            "sizes": (self.T, self.S, self.D, self.E),
            "q_strides": strides(self.q, self.extents, p + "td"),
            "k_strides": strides(self.k, self.extents, p + "sd"),
            "v_strides": strides(self.v, self.extents, p + "se"),
            "out_strides": strides(self.out, self.extents, p + "te"),
            "mod_strides": [strides(axes, self.extents, p + "ts") for axes, _ in self.modifiers],
            "steps": self.steps,
            "out_shape": tuple(self.extents[a] for a in self.out),
        }

    def run(self, **changed: Any) -> np.ndarray:
        arguments = {**self.arguments(), "out_dtype": self.dtypes[3], **changed}
        return np.asarray(jax.jit(lambda qkv, m: attention_call(*qkv, m, **arguments))(self.arrays, self.masks))

    def reference(self, dtype: Any, probabilities: Any = None) -> np.ndarray:
        arguments = self.arguments() | {"dtype": dtype, "probabilities": probabilities}
        return reference.attention(*self.arrays, self.masks, **arguments)

    def in_tiles(self) -> bool:
        return set(self.dtypes) == {"bfloat16"} and cpu.instruction_set() == "amx"

    def check(self) -> np.ndarray:
        """Run the kernel and judge it; returns its result."""
        got, exact = self.run(), self.reference(np.float64)
        naive = self.reference(np.float32, jnp.bfloat16 if self.in_tiles() else None)
        assert got.dtype == jnp.dtype(self.dtypes[3])
        got = result = got.astype(np.float64)
        np.testing.assert_array_equal(np.isnan(got), np.isnan(naive))
        finite = np.isfinite(naive)
        np.testing.assert_array_equal(got[~finite], naive[~finite])
        if finite.any():
            size = np.abs(exact[finite]).max()
            rounding = float(jnp.finfo(self.dtypes[3]).eps) / 2 if self.dtypes[3] != "float32" else 0.0
            got, exact, naive = got[finite], exact[finite], naive[finite]
            bound = 2 * np.abs(naive - exact).max() + 8 * 2**-24 * size
            error = np.abs(got - exact) - rounding * np.abs(exact)
            assert error.max() <= bound + 2.0**-26, f"error {error.max()}, at most {bound} expected"
        return result


# The mathematics


@pytest.mark.parametrize(
    ("modifiers", "steps"),
    [
        ((), ()),
        ((), (SCALE,)),
        ((("ts", "float32"),), (Step(Opcode.MUL, modifier=0),)),
        ((("bhts", "float32"),), (SCALE, Step(Opcode.ADD, modifier=0))),
        ((("bts", "bool"),), (SCALE, Step(Opcode.SELECT, BIG, modifier=0))),
        ((), (SCALE, Step(Opcode.BAND, BIG, hi=0))),
        ((), (SCALE, Step(Opcode.TANH), Step(Opcode.SCALE, 30.0))),
        ((), (SCALE, Step(Opcode.MAX, 0.25))),
        ((), (SCALE, Step(Opcode.OFFSET, -3.0))),
        ((), (SCALE, Step(Opcode.BAND_ADD, -5.0, lo=-20, hi=7))),
        ((("bs", "bool"),), (SCALE, Step(Opcode.SELECT_ADD, -5.0, modifier=0))),
        ((("bhts", "float32"),), (SCALE, Step(Opcode.POST_MUL, modifier=0))),
        ((("bhts", "bool"),), (SCALE, Step(Opcode.POST_SELECT, 0.0, modifier=0))),
        ((("h", "float32"),), (SCALE, Step(Opcode.SINK, modifier=0))),
        ((("bht", "bfloat16"),), (SCALE, Step(Opcode.BAND, BIG, hi=0), Step(Opcode.SINK, modifier=0))),
        (
            (("bhts", "bool"), ("t", "float32")),
            (SCALE, Step(Opcode.SELECT, BIG, 0), Step(Opcode.SINK, modifier=1), Step(Opcode.POST_SELECT, 0.5, 0)),
        ),
        ((("bhts", "bool"),), (SCALE, Step(Opcode.POST_SELECT, 0.01, modifier=0))),
        (
            (("bhts", "bool"), ("hs", "float32")),
            (SCALE, Step(Opcode.BAND, BIG, hi=0), Step(Opcode.POST_SELECT, 0.3, 0), Step(Opcode.POST_MUL, modifier=1)),
        ),
        (
            (("h", "float32"), ("bs", "bool"), ("ts", "bfloat16")),
            (
                SCALE,
                Step(Opcode.MUL, modifier=0),
                Step(Opcode.ADD, modifier=2),
                Step(Opcode.TANH),
                Step(Opcode.SCALE, 50.0),
                Step(Opcode.BAND, SMALLEST, lo=-40, hi=0),
                Step(Opcode.SELECT, SMALLEST, modifier=1),
                Step(Opcode.MAX, -1e5),
                Step(Opcode.OFFSET, 2.0),
            ),
        ),
    ],
)
def test_steps(modifiers: tuple[tuple[str, str], ...], steps: tuple[Step, ...]) -> None:
    Problem(modifiers=modifiers, steps=steps).check()


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize("axes", ["", "b", "h", "t", "s", "ht", "bs", "ts", "st", "bhts", "hstb"])
def test_modifier_layouts(axes: str, dtype: str) -> None:
    Problem(modifiers=((axes, dtype),), steps=(SCALE, Step(Opcode.ADD, modifier=0))).check()


@pytest.mark.parametrize("axes", ["", "t", "s", "ts", "st", "bhts"])
def test_mask_layouts(axes: str) -> None:
    Problem(modifiers=((axes, "bool"),), steps=(SCALE, Step(Opcode.SELECT, BIG, modifier=0))).check()


@pytest.mark.parametrize("out", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize(
    "operands",
    [
        ("float32", "float32", "float32"),
        ("bfloat16", "bfloat16", "bfloat16"),
        ("float16", "float16", "float16"),
        ("bfloat16", "float32", "float16"),
        ("float32", "float16", "bfloat16"),
    ],
)
def test_dtypes(operands: tuple[str, str, str], out: str) -> None:
    Problem(T=50, S=140, dtypes=(*operands, out)).check()


@pytest.mark.parametrize("T", [0, 1, 7, 63, 130])
@pytest.mark.parametrize("S", [0, 1, 7, 63, 130, 260])
def test_ragged_lengths(T: int, S: int) -> None:
    Problem(T=T, S=S, D=24, E=24).check()


@pytest.mark.parametrize(("D", "E"), [(0, 8), (8, 0), (1, 1), (3, 5), (17, 40), (80, 33), (128, 64), (64, 256)])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_depths(D: int, E: int, dtype: str) -> None:
    Problem(T=35, S=131, D=D, E=E, dtypes=(dtype,) * 4).check()


BF16 = ("bfloat16",) * 4


@pytest.mark.parametrize("lo", [None, -NO_LIMIT, -70])
@pytest.mark.parametrize(
    ("T", "S", "D", "E"), [(1, 1, 1, 1), (17, 33, 32, 32), (48, 128, 64, 64), (49, 161, 72, 40), (420, 300, 128, 96)]
)
def test_bfloat16(T: int, S: int, D: int, E: int, lo: int | None) -> None:
    band = [] if lo is None else [Step(Opcode.BAND, BIG, lo=lo, hi=0)]
    Problem(T=T, S=S, D=D, E=E, dtypes=BF16, steps=(Step(Opcode.SCALE, D**-0.5), *band)).check()


def test_bfloat16_with_steps_after_the_normaliser() -> None:
    steps = (SCALE, Step(Opcode.POST_SELECT, 0.3, 0), Step(Opcode.POST_MUL, modifier=1))
    Problem(dtypes=BF16, modifiers=(("ts", "bool"), ("hs", "bfloat16")), steps=steps).check()


@pytest.mark.parametrize("scale", [-0.125, 3.0, np.inf])
def test_bfloat16_scales(scale: float) -> None:
    """Also one that makes logits infinite, which a scale that waits for the exponential would not."""
    problem = Problem(dtypes=BF16, steps=(Step(Opcode.SCALE, scale),))
    problem.arrays[0] = (problem.arrays[0].astype(np.float32) * 5e36).astype(jnp.bfloat16)
    problem.check()


@pytest.mark.parametrize("operand", [0, 1, 2])
@pytest.mark.parametrize("causal", [False, True])
def test_bfloat16_that_is_not_finite(operand: int, causal: bool) -> None:
    steps = (SCALE, *([Step(Opcode.BAND, BIG, hi=0)] if causal else []))
    problem = Problem(T=200, S=200, D=40, E=40, dtypes=BF16, steps=steps)
    problem.arrays[operand][1, 70, 2, 5] = np.nan
    problem.arrays[operand][0, 150, 0, 1] = np.inf
    problem.check()


def test_many_queries_per_item() -> None:
    Problem(T=900, S=300, D=16, E=16, parallel={"h": 2}, q="htd", k="hsd", v="hse", out="hte").check()


def test_wide_heads() -> None:
    Problem(T=60, S=200, D=700, E=650, parallel={}, q="td", k="sd", v="se", out="te").check()


# Few queries over many keys


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize(
    ("T", "S", "D", "E", "parallel", "q", "k", "v", "out"),
    [
        (1, 1, 1, 1, {"b": 2, "h": 3}, "bthd", "bshd", "bshe", "bthe"),
        (1, 0, 8, 8, {"b": 2, "h": 3}, "bthd", "bshd", "bshe", "bthe"),
        (1, 37, 64, 128, {"b": 2, "h": 3}, "bhtd", "bhsd", "bhse", "bhte"),
        (2, 700, 17, 40, {"b": 2, "h": 3}, "bthd", "bshd", "bshe", "bthe"),
        (8, 530, 80, 200, {"b": 1, "h": 3}, "bhdt", "bhsd", "bshe", "bhet"),
        (1, 2600, 128, 128, {"h": 2}, "htd", "hsd", "hse", "hte"),  # in chunks of keys
        (4, 1030, 0, 8, {}, "td", "sd", "se", "te"),
        (1, 1100, 24, 24, {"b": 2, "g": 2, "r": 7}, "btgrd", "bsgd", "bsge", "btgre"),  # groups of seven
        (3, 70, 40, 24, {"h": 23}, "thd", "sd", "se", "hte"),  # 69 rows that share K and V
        (2, 70, 8, 8, {"r": 3, "b": 2}, "rtbd", "bsd", "rbse", "brte"),  # K alone is shared
    ],
)
def test_few_queries(
    T: int, S: int, D: int, E: int, parallel: dict[str, int], q: str, k: str, v: str, out: str, dtype: str
) -> None:
    Problem(T=T, S=S, D=D, E=E, parallel=parallel, q=q, k=k, v=v, out=out, dtypes=(dtype,) * 4).check()


@pytest.mark.parametrize(
    ("modifiers", "steps"),
    [
        ((("bts", "bool"),), (SCALE, Step(Opcode.SELECT, BIG, modifier=0))),
        ((("rs", "bfloat16"),), (SCALE, Step(Opcode.ADD, modifier=0), Step(Opcode.BAND, SMALLEST, lo=5, hi=1090))),
        ((("sbt", "float16"),), (Step(Opcode.MUL, modifier=0), Step(Opcode.TANH), Step(Opcode.SCALE, 30.0))),
        ((("r", "float32"),), (SCALE, Step(Opcode.BAND, BIG, lo=-1, hi=1100), Step(Opcode.SINK, modifier=0))),
        ((("rgt", "bfloat16"), ("s", "bool")), (Step(Opcode.SELECT_ADD, -9.0, 1), Step(Opcode.SINK, modifier=0))),
        ((("bs", "float32"),), (SCALE, Step(Opcode.BAND_ADD, -5.0, hi=20), Step(Opcode.POST_MUL, modifier=0))),
        ((("bs", "bool"),), (SCALE, Step(Opcode.MAX, 0.1), Step(Opcode.POST_SELECT, 0.25, modifier=0))),
        ((), (SCALE, Step(Opcode.BAND, -np.inf, lo=1030, hi=1100))),
        ((), (SCALE, Step(Opcode.BAND, BIG, hi=-10), Step(Opcode.OFFSET, 2.0))),  # nothing is inside
    ],
)
def test_steps_of_few_queries(modifiers: tuple[tuple[str, str], ...], steps: tuple[Step, ...]) -> None:
    layout = {"parallel": {"b": 2, "g": 2, "r": 3}, "q": "btgrd", "k": "bsgd", "v": "bsge", "out": "btgre"}
    Problem(T=3, S=1111, D=16, E=24, **layout, modifiers=modifiers, steps=steps).check()


@pytest.mark.parametrize("operand", [0, 1, 2, 3])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_few_queries_that_are_not_finite(operand: int, value: float) -> None:
    """In a chunk of keys, in the row of one query, in the sink; a chunk whose logits are all -inf adds nothing."""
    masks = (("bs", "bool"), ("bht", "float32"))
    steps = (SCALE, Step(Opcode.SELECT, -np.inf, modifier=0), Step(Opcode.SINK, modifier=1))
    problem = Problem(T=2, S=2200, D=8, E=8, modifiers=masks, steps=steps)
    problem.masks[0][1, :1500] = False
    if operand == 3:
        problem.masks[1][1, 2, 0] = value
    else:
        problem.arrays[operand][0, 1, 2, 5] = problem.arrays[operand][1, -1, 0, 1] = value
    problem.check()


def test_a_modifier_of_a_step_that_takes_none_is_not_read() -> None:
    problem = Problem(T=3, S=70)
    named = problem.run(steps=(SCALE, Step(Opcode.OFFSET, 2.0, modifier=7)))
    np.testing.assert_array_equal(named, problem.run(steps=(SCALE, Step(Opcode.OFFSET, 2.0))))


def test_residuals_of_few_queries() -> None:
    problem = Problem(T=1, S=1500)
    arguments = {**problem.arguments(), "out_dtype": "float32"}
    out, maximum, total = attention_residuals_call(*problem.arrays, **arguments)
    np.testing.assert_allclose(out, problem.run(), atol=1e-6)
    logits = np.einsum("bthd,bshd->bhts", *problem.arrays[:2]) / 8
    np.testing.assert_allclose(maximum, logits.max(-1), rtol=1e-5)
    np.testing.assert_allclose(total, np.exp(logits - logits.max(-1, keepdims=True)).sum(-1), rtol=1e-4)


# Layouts

GROUPED = {"b": 2, "g": 2, "r": 3}  # r query heads share the K and V of a group
EIGHT = {"a": 2, "b": 1, "c": 2, "f": 1, "g": 2, "h": 1, "i": 2, "j": 1}


@pytest.mark.parametrize(
    ("parallel", "q", "k", "v", "out"),
    [
        ({"b": 2, "h": 3}, "bthd", "bshd", "bshe", "bthe"),
        ({"b": 2, "h": 3}, "bhtd", "bhsd", "bhse", "bhte"),
        ({"b": 2, "h": 3}, "bhdt", "bhds", "bhes", "bhet"),
        ({"b": 2, "h": 3}, "tbhd", "dshb", "ebsh", "hteb"),
        ({"b": 5}, "btd", "bsd", "bse", "bte"),
        ({}, "td", "sd", "se", "te"),
        (GROUPED, "btgrd", "bsgd", "bsge", "btgre"),
        ({"b": 2, "h": 4}, "bthd", "bsd", "bse", "bthe"),
        (EIGHT, "abcfghijtd", "abcfghijsd", "abcfghijse", "abcfghijte"),
    ],
)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_layouts(parallel: dict[str, int], q: str, k: str, v: str, out: str, dtype: str) -> None:
    Problem(T=65, S=140, D=20, E=36, parallel=parallel, q=q, k=k, v=v, out=out, dtypes=(dtype,) * 4).check()


@st.composite
def problems(draw: st.DrawFn) -> Problem:
    parallel = {name: draw(st.integers(1, 3)) for name in "bgh"[: draw(st.integers(0, 3))]}

    def axes(last: str) -> str:
        return "".join(draw(st.permutations([*parallel, *last])))

    def shared(last: str) -> str:
        kept = draw(st.lists(st.sampled_from(sorted(parallel)), unique=True)) if parallel else []
        return "".join(draw(st.permutations([*kept, *last])))

    floats = st.sampled_from(["float32", "bfloat16", "float16"])
    size = st.one_of(st.integers(1, 20), st.sampled_from([47, 48, 49, 127, 128, 129, 200]))
    modifiers = ((shared(draw(st.sampled_from(["", "t", "s", "ts"]))), "bool"), (shared("ts"), draw(floats)))
    lo = draw(st.integers(-150, 20))
    candidates = [
        SCALE,
        Step(Opcode.SELECT, draw(st.sampled_from([BIG, SMALLEST, -1e4, 0.0])), modifier=0),
        Step(Opcode.ADD, modifier=1),
        Step(Opcode.BAND, draw(st.sampled_from([BIG, SMALLEST, -7.0])), lo=lo, hi=lo + draw(st.integers(0, 300))),
        Step(Opcode.TANH),
    ]
    steps = tuple(draw(st.lists(st.sampled_from(candidates), max_size=4)))
    if draw(st.booleans()):
        steps += (Step(Opcode.POST_SELECT, draw(st.sampled_from([0.0, 0.5])), modifier=0),)
    return Problem(
        T=draw(size),
        S=draw(size),
        D=draw(size),
        E=draw(size),
        parallel=parallel,
        q=axes("td"),
        k=shared("sd"),
        v=shared("se"),
        out=axes("te"),
        dtypes=(draw(floats), draw(floats), draw(floats), draw(floats)),
        modifiers=modifiers,
        steps=steps,
        seed=draw(st.integers(0, 99)),
    )


@settings(max_examples=60, deadline=None, derandomize=True)
@given(problems())
def test_any_layout_and_program(problem: Problem) -> None:
    problem.check()


# Masks and special values


@pytest.mark.parametrize("fill", [-1e4, BIG, SMALLEST, 0.0, 3.0, -np.inf, np.nan, np.inf])
@pytest.mark.parametrize(
    ("lo", "hi"),
    [
        (-NO_LIMIT, 0),
        (0, NO_LIMIT),
        (-5, 5),
        (-300, -140),
        (3, 3),
        (-64, 0),
        (10, -10),  # nothing
        (500, 600),
        (-900, -800),
        (-46, NO_LIMIT),  # all but a corner of the first tile of 48 queries and 128 keys
        (-NO_LIMIT, 126),
    ],
)
def test_bands(lo: int, hi: int, fill: float) -> None:
    """Also rows no key is left to, whose fills then count, and blocks that are skipped where they do not."""
    Problem(
        T=400,
        S=420,
        D=8,
        E=8,
        parallel={"h": 2},
        q="htd",
        k="hsd",
        v="hse",
        out="hte",
        steps=(SCALE, Step(Opcode.BAND, fill, lo=lo, hi=hi)),
    ).check()


@pytest.mark.parametrize("fill", [-1e4, BIG, -np.inf])
@pytest.mark.parametrize("order", [1, -1])
def test_rows_masked_by_band_and_mask_together(fill: float, order: int) -> None:
    steps = (Step(Opcode.BAND, fill, hi=0), Step(Opcode.SELECT, 2 * fill, modifier=0))[::order]
    problem = Problem(T=300, S=300, D=8, E=8, modifiers=(("bs", "bool"),), steps=(SCALE, *steps))
    problem.masks[0][:] = np.arange(300) > 200  # nothing is left to the first 201 queries
    problem.check()


@pytest.mark.parametrize("after", [Step(Opcode.OFFSET, 1e30), Step(Opcode.SELECT, 5.0, 0), Step(Opcode.MAX, -3.0)])
def test_band_is_not_skipped_when_a_later_step_lifts_its_fill(after: Step) -> None:
    Problem(
        T=300, S=300, D=8, E=8, modifiers=(("s", "bool"),), steps=(SCALE, Step(Opcode.BAND, BIG, hi=0), after)
    ).check()


def test_logits_far_below_the_fill_of_a_band() -> None:
    steps = (SCALE, Step(Opcode.OFFSET, -5000.0), Step(Opcode.BAND, -4900.0, hi=0))
    Problem(T=300, S=300, D=8, E=8, steps=steps).check()


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_masked_values_count_when_they_are_not_finite(value: float) -> None:
    """0 · NaN is NaN in the plain formula too: a block is not skipped then."""
    problem = Problem(T=300, S=400, D=8, E=8, steps=(SCALE, Step(Opcode.BAND, BIG, hi=0)))
    problem.arrays[2][0, 399, 1, 3] = value
    got = problem.check()
    assert np.isnan(got[0, :, 1, 3]).all()


@pytest.mark.parametrize("fill", [BIG, SMALLEST])
def test_fully_masked_rows_are_the_mean_of_the_values(fill: float) -> None:
    problem = Problem(modifiers=(("t", "bool"),), steps=(SCALE, Step(Opcode.SELECT, fill, modifier=0)))
    problem.masks[0][:] = False
    got = problem.check()
    np.testing.assert_allclose(got, np.broadcast_to(problem.arrays[2].mean(1, keepdims=True), got.shape), atol=1e-6)


def test_rows_masked_with_infinity_are_nan() -> None:
    problem = Problem(modifiers=(("t", "bool"),), steps=(SCALE, Step(Opcode.SELECT, -np.inf, modifier=0)))
    got = problem.check()
    np.testing.assert_array_equal(np.isnan(got).any((0, 2, 3)), ~problem.masks[0])


@pytest.mark.parametrize("operand", [0, 1, 2])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("causal", [False, True])
def test_values_that_are_not_finite(operand: int, value: float, causal: bool) -> None:
    problem = Problem(T=200, S=200, D=8, E=8, steps=(SCALE, *([Step(Opcode.BAND, BIG, hi=0)] if causal else [])))
    problem.arrays[operand][1, 70, 2, 5] = value
    problem.arrays[operand][0, 150, 0, 1] = value
    problem.check()


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("op", [Opcode.ADD, Opcode.MUL, Opcode.POST_MUL])
def test_modifiers_that_are_not_finite(op: Opcode, value: float) -> None:
    problem = Problem(modifiers=(("ts", "float32"),), steps=(SCALE, Step(op, modifier=0)))
    problem.masks[0][5, 120] = value
    problem.check()


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_sinks_that_are_not_finite(value: float) -> None:
    problem = Problem(modifiers=(("t", "float32"),), steps=(SCALE, Step(Opcode.SINK, modifier=0)))
    problem.masks[0][5] = value
    problem.check()


@pytest.mark.parametrize("op", [Opcode.SCALE, Opcode.OFFSET, Opcode.MAX, Opcode.BAND])
@pytest.mark.parametrize("c", [np.nan, np.inf, -np.inf])
def test_constants_that_are_not_finite(op: Opcode, c: float) -> None:
    Problem(T=200, S=300, steps=(SCALE, Step(op, c, hi=0))).check()


@pytest.mark.parametrize("size", [1e-42, 1e-25, 1e3, 1e6, 1e18, 1e25])
def test_sizes(size: float) -> None:
    """Denormal operands, logits far apart, and logits that overflow."""
    problem = Problem(D=16, steps=())
    problem.arrays[0] *= np.float32(size)
    problem.check()


# Threads


def test_concurrent_calls() -> None:
    """The pool's threads wait for each other nowhere: more callers than threads, all inside the kernel."""
    problem = Problem(T=150, S=300)
    expected, results = problem.run(), {}

    def call(i: int) -> None:
        results[i] = problem.run()

    threads = [threading.Thread(target=call, args=(i,)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)
    for i in range(8):
        np.testing.assert_array_equal(results[i], expected)


# Refusals

LONG = [2**62, 2**62, 1, 1]


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"dims": [2, 4]}, "the strides of q reach element"),
        ({"dims": [2]}, "attribute q_strides has 4 elements, expected 3"),
        ({"dims": [1] * 9}, "dims has 9 elements, at most 8"),
        ({"dims": [-2, 3]}, r"extent dims\[i\] is -2"),
        ({"sizes": (70, 150, 64)}, "attribute sizes has 3 elements, expected 4"),
        ({"sizes": (70, -1, 64, 64)}, "extent S is -1"),
        ({"sizes": (70, 150, 2**40, 64)}, "extent D is 1099511627776"),
        ({"sizes": (70, 151, 64, 64)}, "the strides of k reach element"),
        ({"q_strides": LONG}, "the strides of q are negative or overflow"),
        ({"v_strides": [-1, 0, 0, 0]}, "the strides of v are negative"),
        ({"out_strides": [0, 64, 192, 1]}, "the strides of out must visit each of its 26880 elements exactly once"),
        ({"sizes": (69, 150, 64, 64)}, "the strides of out must visit each"),
        ({"mod_strides": [[0, 0, 150, 1], [0, 0, 0, 0]]}, "mod_strides has 8 elements, expected 4"),
        ({"mod_strides": [[0, 0, 151, 1]]}, "the strides of modifier 0 reach element"),
        ({"steps": [Step(99, modifier=0)]}, "step 0 has the unknown opcode 99"),
        ({"steps": [SCALE, Step(Opcode.ADD)]}, "step 1 names modifier -1, there are 1"),
        ({"steps": [Step(Opcode.ADD, modifier=1)]}, "step 0 names modifier 1, there are 1"),
        ({"steps": [Step(Opcode.SELECT, modifier=0)]}, "expects modifier 0 to be pred"),
        ({"steps": [Step(Opcode.SINK, modifier=0)] * 2}, "step 1 is a second sink"),
        ({"steps": [Step(Opcode.POST_MUL, modifier=0), SCALE]}, "step 1 acts on the logits but follows"),
        ({"out_dtype": "int32"}, "out has element type"),
    ],
)
def test_bad_arguments_raise(changed: dict[str, Any], message: str) -> None:
    problem = Problem(modifiers=(("ts", "float32"),))
    with pytest.raises(jax.errors.JaxRuntimeError, match=message):
        problem.run(**changed)


@pytest.mark.parametrize("operand", [0, 1, 2])
def test_bad_element_types_raise(operand: int) -> None:
    for dtype, message in ((bool, "expected f32, bf16 or f16"), (np.int32, "expected f32, bf16, f16 or pred")):
        problem = Problem()
        problem.arrays[operand] = problem.arrays[operand].astype(dtype)
        with pytest.raises(jax.errors.JaxRuntimeError, match=f"{'qkv'[operand]} has element type .*{message}"):
            problem.run()


def test_bool_cannot_be_added() -> None:
    problem = Problem(modifiers=(("ts", "bool"),), steps=(Step(Opcode.ADD, modifier=0),))
    with pytest.raises(jax.errors.JaxRuntimeError, match="expects modifier 0 to be f32, bf16 or f16"):
        problem.run()


def test_missing_library_says_how_to_build_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(library, "candidates", lambda: iter([tmp_path / library.NAME]))
    with pytest.raises(library.KernelLibraryMissing, match=r"pip install \.") as error:
        library.load.__wrapped__()
    assert str(tmp_path) in str(error.value)
    (tmp_path / library.NAME).write_text("not a library")
    with pytest.raises(library.KernelLibraryMissing, match="cannot be loaded"):
        library.load.__wrapped__()


def test_registering_twice_is_harmless() -> None:
    library.register()
    library.register.__wrapped__()
    Problem(T=3, S=3).check()
