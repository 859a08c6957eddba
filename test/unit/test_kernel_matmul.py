"""The CPU matrix product against the plain formula in float64.

The kernel may be at most twice as far from float64 as the plain formula in float32 is, plus a few units in the last
place, and has NaN and infinities exactly where that has them.
"""

import dataclasses
import threading
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from zenith_mlir.kernels.cpu.matmul import Opcode, Step, matmul_call
from zenith_mlir.kernels.reference import matmul as reference

pytestmark = pytest.mark.once

DTYPES = ["float32", "bfloat16", "float16"]


@dataclasses.dataclass
class Problem:
    """Random operands in the layouts named by their axes, and the steps that follow their product."""

    lhs: str
    rhs: str
    out: str
    sizes: Mapping[str, int]
    dtypes: tuple[str, str, str] = ("bfloat16",) * 3  # of lhs, rhs, out
    modifiers: tuple[tuple[str, str], ...] = ()  # axes and dtype
    steps: tuple[Step, ...] = ()
    seed: int = 0

    def __post_init__(self) -> None:
        rng = np.random.default_rng(self.seed)

        def draw(axes: str, dtype: str) -> np.ndarray:
            return np.asarray(rng.normal(size=[self.sizes[a] for a in axes])).astype(jnp.dtype(dtype))

        self.arrays = [draw(self.lhs, self.dtypes[0]), draw(self.rhs, self.dtypes[1])]
        self.others = [draw(axes, dtype) for axes, dtype in self.modifiers]

    def strides(self, axes: str, wanted: str) -> list[int]:
        extent = [self.sizes[a] for a in axes]
        return [int(np.prod(extent[axes.index(w) + 1 :])) if w in axes else 0 for w in wanted]

    def arguments(self) -> dict[str, Any]:
        p = "".join(a for a in self.out if a in self.lhs and a in self.rhs)
        m = "".join(a for a in self.out if a not in self.rhs)
        n = "".join(a for a in self.out if a not in self.lhs)
        k = "".join(a for a in self.rhs if a not in self.out)
        return {
            **{name: [self.sizes[a] for a in axes] for name, axes in {"p": p, "m": m, "n": n, "k": k}.items()},
            "lhs_strides": self.strides(self.lhs, p + m + k),
            "rhs_strides": self.strides(self.rhs, p + k + n),
            "out_strides": self.strides(self.out, p + m + n),
            "mod_strides": [self.strides(axes, p + m + n) for axes, _ in self.modifiers],
            "steps": self.steps,
            "out_shape": tuple(self.sizes[a] for a in self.out),
        }

    def run(self, **changed: Any) -> np.ndarray:
        arguments = {**self.arguments(), "out_dtype": self.dtypes[2], **changed}
        return np.asarray(jax.jit(lambda ab, m: matmul_call(*ab, m, **arguments))(self.arrays, self.others))

    def reference(self, dtype: Any) -> np.ndarray:
        return reference.matmul(*self.arrays, self.others, **self.arguments(), dtype=dtype)

    def check(self) -> np.ndarray:
        """Run the kernel and judge it; returns its result."""
        got, exact, naive = self.run(), self.reference(np.float64), self.reference(np.float32)
        assert got.dtype == jnp.dtype(self.dtypes[2])
        got = result = got.astype(np.float64)
        np.testing.assert_array_equal(np.isnan(got), np.isnan(naive))
        finite = np.isfinite(naive)
        np.testing.assert_array_equal(got[~finite], naive[~finite])
        if finite.any():
            size = np.abs(exact[finite]).max()
            rounding = float(jnp.finfo(self.dtypes[2]).eps) / 2 if self.dtypes[2] != "float32" else 0.0
            got, exact, naive = got[finite], exact[finite], naive[finite]
            bound = 2 * np.abs(naive - exact).max() + 8 * 2**-24 * size
            error = np.abs(got - exact) - rounding * np.abs(exact)
            assert error.max() <= bound + 2.0**-26, f"error {error.max()}, at most {bound} expected"
        return result


def plain(m: int, k: int, n: int, **more: Any) -> Problem:
    return Problem("mk", "kn", "mn", {"m": m, "k": k, "n": n}, **more)


# Sizes, types and layouts


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("transposed", ["", "lhs", "rhs", "both", "out"])
@pytest.mark.parametrize("m", [3, 40])
def test_ragged(m: int, transposed: str, dtype: str) -> None:
    lhs, rhs = ("km", "kn") if transposed == "lhs" else ("mk", "nk") if transposed == "rhs" else ("mk", "kn")
    lhs, rhs = ("km", "nk") if transposed == "both" else (lhs, rhs)
    for k, n in [(1, 1), (7, 50), (33, 16), (70, 131)]:
        sizes = {"m": m, "k": k, "n": n}
        Problem(lhs, rhs, "nm" if transposed == "out" else "mn", sizes, (dtype, dtype, "float32")).check()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    ("m", "k", "n"), [(600, 40, 33), (20, 2100, 60), (3, 2100, 2300), (300, 1100, 100), (16, 64, 1200), (530, 64, 800)]
)
def test_several_blocks(m: int, k: int, n: int, dtype: str) -> None:
    plain(m, k, n, dtypes=(dtype, dtype, "float32")).check()


@pytest.mark.parametrize("out", DTYPES)
@pytest.mark.parametrize("operands", [("bfloat16", "float32"), ("float16", "bfloat16"), ("float32", "float16")])
def test_dtypes(operands: tuple[str, str], out: str) -> None:
    plain(37, 65, 70, dtypes=(*operands, out)).check()


@pytest.mark.parametrize("m", [0, 1, 5])
@pytest.mark.parametrize("k", [0, 3])
@pytest.mark.parametrize("n", [0, 1, 20])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_empty(m: int, k: int, n: int, dtype: str) -> None:
    got = plain(m, k, n, dtypes=(dtype,) * 3, steps=(Step(Opcode.OFFSET, 1.5),)).check()
    if k == 0:
        assert (got == 1.5).all()


LAYOUTS = [
    ("btk", "kn", "btn"),
    ("btk", "khd", "bthd"),  # split columns
    ("btk", "khd", "bhtd"),  # and transposed
    ("bthd", "hdn", "btn"),  # two summed axes
    ("bhtd", "hdn", "btn"),  # far apart
    ("bhtd", "ndh", "btn"),
    ("btk", "bkn", "btn"),  # batched
    ("bhtk", "bhkn", "bthn"),
    ("thbk", "nhk", "bhtn"),
    ("kt", "hdk", "dth"),
]


@pytest.mark.parametrize(("lhs", "rhs", "out"), LAYOUTS)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize(("t", "d"), [(33, 32), (2, 5)])
def test_layouts(lhs: str, rhs: str, out: str, t: int, d: int, dtype: str) -> None:
    sizes = {"b": 2, "t": t, "h": 3, "d": d, "k": 45, "n": 37}
    modifiers = ((out[-1], "float32"), (out, dtype), (out[0], "float16"))
    steps = tuple(Step(Opcode.ADD, modifier=i) for i in range(3))
    Problem(lhs, rhs, out, sizes, (dtype,) * 3, modifiers, steps).check()


@st.composite
def problems(draw: st.DrawFn) -> Problem:
    axes = {kind: [kind + str(i) for i in range(draw(st.integers(0, 2)))] for kind in "pmnk"}
    letters = dict(zip([a for kind in axes.values() for a in kind], "abcdefgh", strict=False))

    def operand(kinds: str) -> str:
        return "".join(letters[a] for a in draw(st.permutations([a for kind in kinds for a in axes[kind]])))

    size = st.one_of(st.integers(1, 6), st.sampled_from([15, 16, 17, 32, 49]))
    sizes = {letter: draw(size if name[0] != "p" else st.integers(1, 3)) for name, letter in letters.items()}
    floats = st.sampled_from(DTYPES)
    pair = draw(st.sampled_from([("bfloat16", "bfloat16"), ("float32", "float32"), ("float16", "bfloat16")]))
    out = operand("pmn")
    bias = "".join(a for a in out if draw(st.booleans()))
    candidates = [
        Step(Opcode.ADD, modifier=0),
        Step(Opcode.MUL, modifier=1),
        Step(Opcode.SCALE, 0.3),
        Step(Opcode.RELU),
    ]
    steps = tuple(draw(st.lists(st.sampled_from(candidates), max_size=3)))
    modifiers = ((bias, draw(floats)), (out, draw(floats)))
    return Problem(operand("pmk"), operand("pkn"), out, sizes, (*pair, draw(floats)), modifiers, steps)


@settings(max_examples=40, deadline=None, derandomize=True)
@given(problems())
def test_any_layout(problem: Problem) -> None:
    problem.check()


# The epilogue

ACTIVATIONS = [
    Opcode.RELU, Opcode.TANH, Opcode.SIGMOID, Opcode.SILU, Opcode.GELU, Opcode.GELU_TANH, Opcode.TO_BF16, Opcode.TO_F16,
]  # fmt: skip


@pytest.mark.parametrize("op", ACTIVATIONS)
@pytest.mark.parametrize("scale", [0.01, 0.3, 8.0])
def test_activations(op: Opcode, scale: float) -> None:
    steps = (Step(Opcode.SCALE, scale), Step(Opcode.ADD, modifier=0), Step(op))
    problem = plain(20, 65, 50, dtypes=("float32", "float32", "float32"), modifiers=(("n", "float32"),), steps=steps)
    if op in (Opcode.TO_BF16, Opcode.TO_F16):  # sums that differ by an ulp may round apart
        got, exact = problem.run(), problem.reference(np.float64)
        np.testing.assert_allclose(got, exact, rtol=2.0**-7 if op == Opcode.TO_BF16 else 2.0**-9, atol=1e-6)
        assert (got == got.astype(jnp.bfloat16 if op == Opcode.TO_BF16 else np.float16).astype(np.float32)).all()
    else:
        problem.check()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("m", [2, 70])
def test_bias_activation_residual(m: int, dtype: str) -> None:
    steps = (
        Step(Opcode.SCALE, 0.2), Step(Opcode.ADD, modifier=0), Step(Opcode.GELU_TANH), Step(Opcode.OFFSET, -0.5),
        Step(Opcode.MUL, modifier=2), Step(Opcode.ADD, modifier=1),
    )  # fmt: skip
    modifiers = (("n", dtype), ("mn", dtype), ("nm", "float32"))
    plain(m, 130, 83, dtypes=(dtype,) * 3, modifiers=modifiers, steps=steps).check()


# Special values


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("op", [None, *ACTIVATIONS])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_values_that_are_not_finite(value: float, op: Opcode | None, dtype: str) -> None:
    steps = () if op is None else (Step(op),)
    problem = plain(37, 33, 50, dtypes=(dtype, dtype, "float32"), steps=steps)
    problem.arrays[0][5, 7] = value
    problem.arrays[1][3, 20] = value
    if op in (Opcode.TO_BF16, Opcode.TO_F16):
        assert (np.isnan(problem.run()) == np.isnan(problem.reference(np.float32))).all()
    else:
        problem.check()


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_values_that_are_not_finite_stay_in_their_row(dtype: str) -> None:
    """What pads a panel is 0 on both sides: 0 times a neighbour's NaN would be one more."""
    for m, k, n in [(17, 33, 17), (40, 31, 5)]:
        problem = plain(m, k, n, dtypes=(dtype,) * 3)
        problem.arrays[0][-1, :] = np.nan
        got = problem.check()
        assert np.isnan(got).sum() == n


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("row", ["equal", "one large", "cancels", "offset"])
def test_adversarial_rows(row: str, dtype: str) -> None:
    problem = plain(9, 3000, 20, dtypes=(dtype, dtype, "float32"))
    lhs, rhs = problem.arrays
    if row == "equal":
        lhs[:], rhs[:] = np.asarray(1.1, lhs.dtype), np.asarray(0.7, rhs.dtype)
    elif row == "one large":
        lhs[:, 17] = 3e4
    elif row == "cancels":
        lhs[:, 1::2] = -lhs[:, ::2]
        rhs[1::2] = rhs[::2]
    else:
        lhs[:] = np.asarray(lhs.astype(np.float32) + 100, lhs.dtype)
    problem.check()


@pytest.mark.parametrize("size", [1e-30, 1e-20, 1e18])
def test_sizes(size: float) -> None:
    problem = plain(20, 40, 40, dtypes=("bfloat16", "bfloat16", "float32"))
    problem.arrays[0] = (problem.arrays[0].astype(np.float32) * size).astype(jnp.bfloat16)
    problem.check()


# Threads


def test_concurrent_calls() -> None:
    """The pool's threads wait for each other nowhere: more callers than threads, all inside the kernel."""
    problem = plain(600, 200, 300)
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


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"m": [6]}, "the strides of lhs reach element"),
        ({"m": [4]}, "the strides of out must visit each of its 30 elements exactly once"),
        ({"k": [8]}, "the strides of lhs reach element"),
        ({"k": [-7]}, "an extent of k is -7"),
        ({"n": [2**31]}, "an extent of n is 2147483648"),
        ({"m": [2**20, 2**20], "lhs_strides": [0] * 3, "out_strides": [0] * 3}, "the extents of m multiply to 2"),
        ({"m": [2**30] * 3, "lhs_strides": [0] * 4, "out_strides": [0] * 4}, "the extents of m multiply to 2"),
        ({"m": [1] * 9}, "m is made of 9 axes, at most 8"),
        ({"p": [1]}, "attribute lhs_strides has 2 elements, expected 3"),
        ({"rhs_strides": [6, 1, 1]}, "attribute rhs_strides has 3 elements, expected 2"),
        ({"rhs_strides": [6, -1]}, "the strides of rhs are negative or overflow"),
        ({"lhs_strides": [2**62, 2**62]}, "the strides of lhs are negative or overflow"),
        (
            {
                "m": [1, 5],
                "k": [0],
                "lhs_strides": [1, 2 * 10**18, 1],
                "out_strides": [0, 6, 1],
                "mod_strides": [[0, 0, 1]],
            },
            "the strides of lhs are negative or overflow",
        ),
        ({"out_strides": [1, 1]}, "the strides of out must visit each"),
        ({"out_strides": [0, 1]}, "the strides of out must visit each"),
        ({"mod_strides": [[0, 2]]}, "the strides of modifier 0 reach element 10"),
        ({"mod_strides": []}, "attribute mod_strides has 0 elements, expected 2"),
        ({"steps": [Step(Opcode.ADD)]}, "step 0 names modifier -1, there are 1"),
        ({"steps": [Step(Opcode.RELU), Step(Opcode.MUL, modifier=1)]}, "step 1 names modifier 1, there are 1"),
        ({"steps": [Step(99)]}, "step 0 has the unknown opcode 99"),
        ({"out_dtype": "int32"}, "out has element type"),
    ],
)
def test_bad_arguments_raise(changed: dict[str, Any], message: str) -> None:
    problem = plain(5, 7, 6, modifiers=(("n", "float32"),))
    with pytest.raises(jax.errors.JaxRuntimeError, match=message):
        problem.run(**changed)


@pytest.mark.parametrize("operand", [0, 1])
@pytest.mark.parametrize("dtype", [bool, np.int32])
def test_bad_element_types_raise(operand: int, dtype: Any) -> None:
    problem = plain(5, 7, 6)
    problem.arrays[operand] = problem.arrays[operand].astype(dtype)
    name = ("lhs", "rhs")[operand]
    with pytest.raises(jax.errors.JaxRuntimeError, match=f"{name} has element type .*expected f32, bf16 or f16"):
        problem.run()


def test_sizes_that_only_strides_of_0_make_possible() -> None:
    problem = plain(1, 1, 2**19, dtypes=("bfloat16",) * 3)
    with pytest.raises(jax.errors.JaxRuntimeError, match=r"the extents of rhs multiply to 2\^48 or more"):
        problem.run(k=[2**30], lhs_strides=[0, 0], rhs_strides=[0, 0])
