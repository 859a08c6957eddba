"""The CPU kernel for the gradients of attention against the differentiated formula in float64.

The kernel may be at most twice as far from float64 as the formula in float32 is, plus a few units in the last place.
Where the kernel multiplies tiles of bfloat16, the formula in float32 rounds what the kernel rounds.
The formula is written twice: differentiated by JAX from the dialect, which says what the attributes mean, and in numpy,
which needs no compiler and judges most programs here. A test holds the two together.
"""

import dataclasses
import threading
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from zenith_mlir.dialects import attention, attention_vjp
from zenith_mlir.dialects.attention import AttentionSpec, Step
from zenith_mlir.dialects.attention_vjp import AttentionVjpSpec, Gradient
from zenith_mlir.dialects.implementation import Refusal, Request, TensorSpec
from zenith_mlir.dialects.layout import Layout
from zenith_mlir.kernels import cpu
from zenith_mlir.kernels.cpu import attention_arguments, attention_implementation, attention_vjp_implementation
from zenith_mlir.kernels.cpu import attention_vjp as kernel
from zenith_mlir.kernels.cpu.attention import Opcode, attention_residuals_call
from zenith_mlir.kernels.cpu.attention import Step as KernelStep
from zenith_mlir.kernels.reference import attention as reference
from zenith_mlir.target import Target

pytestmark = pytest.mark.once

Array = np.ndarray
BIG = -1e30
SCALE = Step("scale", value=0.25)  # in float32 as in float64
CAUSAL = Step("band", high=0, value=BIG)
BTHD = ("b t h d", "b s h d", "b s h e", "b t h e")


@dataclasses.dataclass
class Problem:
    """Random operands of an attention, and the gradients wanted of it: by role, layout and factor."""

    axes: Mapping[str, int] = dataclasses.field(
        default_factory=lambda: {"b": 2, "h": 3, "t": 70, "s": 150, "d": 24, "e": 40}
    )
    layouts: tuple[str, str, str, str] = BTHD  # of q, k, v, out
    cotangent: str | None = None
    modifiers: tuple[tuple[str, str], ...] = ()  # layout and dtype
    steps: tuple[Step, ...] = (SCALE,)
    gradients: tuple[tuple[int, str, float], ...] | None = None  # default: of q, k and v as they are laid out
    dtype: str = "float32"
    v_dtype: str | None = None  # of v and out, where it is another
    residuals: bool = True
    seed: int = 0

    def __post_init__(self) -> None:
        q, k, v, out = map(Layout.parse, self.layouts)
        modifiers = tuple(Layout.parse(layout) for layout, _ in self.modifiers)
        forward = AttentionSpec(dict(self.axes), q, k, v, out, modifiers, self.steps, residuals=self.residuals)
        wanted = self.gradients
        if wanted is None:
            wanted = tuple((role, layout, 1.0) for role, layout in enumerate(self.layouts[:3]))
        gradients = tuple(Gradient(role, Layout.parse(layout), factor) for role, layout, factor in wanted)
        self.spec = AttentionVjpSpec(forward, Layout.parse(self.cotangent or self.layouts[3]), gradients)
        rng = np.random.default_rng(self.seed)

        def draw(layout: Layout, dtype: str) -> Array:
            normal = rng.normal(size=layout.shape(self.axes))
            return normal > -0.5 if dtype == "bool" else np.asarray(normal.astype(jnp.dtype(dtype)))

        self.v_dtype = self.v_dtype or self.dtype
        self.roles = [draw(q, self.dtype), draw(k, self.dtype), draw(v, self.v_dtype)]
        self.roles += [draw(layout, dtype) for layout, (_, dtype) in zip(modifiers, self.modifiers, strict=True)]
        self.out_cotangent = draw(self.spec.cotangent, self.v_dtype)

    @property
    def forward_request(self) -> Request:
        out = TensorSpec(self.spec.attention.out.shape(self.axes), np.dtype(jnp.dtype(self.v_dtype)))
        return Request(self.spec.attention, _types(self.roles), (out,), Target.parse("cpu"), 0)

    def operands(self) -> list[Array]:
        """As the composite has them; residuals are those of the forward kernel."""
        residuals = jax.jit(attention_implementation.build(self.forward_request))(*self.roles)
        return [*self.roles, *(map(np.asarray, residuals) if self.residuals else ()), self.out_cotangent]

    def request(self, operands: Sequence[Array], **changed: Any) -> Request:
        roles = self.spec.attention.roles(operands)
        results = tuple(
            TensorSpec(gradient.layout.shape(self.axes), roles[gradient.role].dtype) for gradient in self.spec.gradients
        )
        return dataclasses.replace(Request(self.spec, _types(operands), results, Target.parse("cpu"), 0), **changed)

    def run(self) -> list[Array]:
        operands = self.operands()
        self.spec.verify([x.shape for x in operands], [g.layout.shape(self.axes) for g in self.spec.gradients])
        request = self.request(operands)
        assert attention_vjp_implementation.refuse(request) is None
        return [np.asarray(x) for x in jax.jit(attention_vjp_implementation.build(request))(*operands)]

    def formula(self) -> list[Array]:
        """The formula of the dialect in float64; residuals are not looked at."""
        spec = dataclasses.replace(self.spec, attention=dataclasses.replace(self.spec.attention, residuals=False))

        def gradients(*operands: jax.Array) -> list[jax.Array]:
            return attention_vjp.reference(spec, *operands, dtype=jnp.float64)

        with jax.enable_x64(True):
            return [np.asarray(x) for x in jax.jit(gradients)(*self.roles, self.out_cotangent)]

    def in_tiles(self) -> bool:
        return {self.dtype, self.v_dtype} == {"bfloat16"} and cpu.instruction_set() == "amx"

    def reference(self, dtype: Any, rounded: Any = None) -> list[Array]:
        """The formula in numpy. The steps that divide, subtract or invert are judged by `formula` instead."""
        spec = self.spec.attention
        (contracted,), modifiers = spec.contracted, attention_arguments.modifiers_of(spec)
        assert not any(modifier.turn for modifier in modifiers)
        numbers = {modifier.role: kernel.FIRST_MODIFIER + i for i, modifier in enumerate(modifiers)}
        last = {0: ("t", contracted), 1: ("s", contracted), 2: ("s", "e")}
        gradients = [
            kernel.Gradient(
                numbers.get(g.role, g.role),
                attention_arguments.strides(spec, g.layout, *last.get(g.role, "ts")),
                g.layout.shape(self.axes),
            )
            for g in self.spec.gradients
        ]
        arguments = attention_arguments.arguments(spec)
        del arguments["out_strides"]
        cotangent_strides = attention_arguments.strides(spec, self.spec.cotangent, "t", "e")
        turned = [np.asarray(modifier.of(self.roles)) for modifier in modifiers]
        found = reference.attention_vjp(
            *self.roles[:3],
            self.out_cotangent,
            turned,
            gradients=gradients,
            cotangent_strides=cotangent_strides,
            dtype=dtype,
            rounded=rounded,
            **arguments,
        )
        return [x * np.asarray(g.factor, dtype) for x, g in zip(found, self.spec.gradients, strict=True)]

    def check(self) -> list[Array]:
        """Run the kernel and judge it; returns its results."""
        got, exact = self.run(), self.reference(np.float64)
        naive = self.reference(np.float32, jnp.bfloat16 if self.in_tiles() else None)
        for gradient, *judged in zip(self.spec.gradients, got, exact, naive, strict=True):
            _judge(f"the gradient of role {gradient.role}", *judged, terms=self.terms(gradient))
        return got

    def terms(self, gradient: Gradient) -> int:
        """How many elements are summed for one of the gradient."""
        lacking = set(self.spec.axes_of(gradient.role)) - set(gradient.layout.axes)
        return int(np.prod([self.axes[axis] for axis in lacking]))

    def check_by_formula(self) -> None:
        """Run the kernel and judge it by the formula of the dialect, within rounding errors of operands of size one."""
        for got, exact in zip(self.run(), self.formula(), strict=True):
            np.testing.assert_allclose(got, exact, rtol=1e-5, atol=1e-5 * max(1, np.abs(exact).max(initial=0)))


def _types(arrays: Sequence[Array]) -> tuple[TensorSpec, ...]:
    return tuple(TensorSpec(x.shape, x.dtype) for x in arrays)


def _judge(name: str, got: Array, exact: Array, naive: Array, terms: int) -> None:
    rounding = float(jnp.finfo(got.dtype).eps) / 2 if got.dtype != np.float32 else 0.0
    got = got.astype(np.float64)
    np.testing.assert_array_equal(np.isfinite(got), np.isfinite(exact), err_msg=name)
    finite = np.isfinite(exact)
    if not finite.any():
        return
    got, exact, naive = got[finite], exact[finite], naive[finite]
    bound = 2 * np.abs(naive - exact).max() + (32 * 2**-24 + rounding) * np.abs(exact).max()
    bound += 4 * 2**-24 * np.sqrt(terms)  # terms of size one may cancel, and numpy sums pairwise
    error = np.abs(got - exact).max()
    assert error <= bound + 2.0**-26, f"{name}: error {error}, at most {bound} expected"


# The residuals of the forward


@pytest.mark.parametrize(
    ("modifiers", "steps"),
    [
        ((), (SCALE,)),
        ((), (SCALE, CAUSAL)),
        ((), (SCALE, Step("band", low=100, high=200, value=BIG))),  # most rows are masked as a whole
        ((("h", "float32"),), (SCALE, CAUSAL, Step("sink", operand=3))),
        ((("b h t s", "bool"),), (SCALE, Step("post_select", operand=3, value=0.5))),
    ],
)
def test_residuals_of_the_forward(modifiers: tuple[tuple[str, str], ...], steps: tuple[Step, ...]) -> None:
    problem = Problem(modifiers=modifiers, steps=steps)
    got = jax.jit(attention_implementation.build(problem.forward_request))(*problem.roles)
    with jax.enable_x64(True):
        exact = jax.jit(partial(attention.reference, problem.spec.attention, dtype=np.float64))(*problem.roles)
    for mine, other in zip(got, exact, strict=True):
        assert mine.dtype == np.float32
        np.testing.assert_allclose(mine, other, rtol=1e-6, atol=2e-6 * np.abs(other).max())


def test_residuals_without_value_features() -> None:
    problem = Problem(axes={"b": 2, "h": 3, "t": 5, "s": 9, "d": 4, "e": 0})
    out, maximum, total = jax.jit(attention_implementation.build(problem.forward_request))(*problem.roles)
    x = 0.25 * np.einsum("bthd,bshd->bhts", *problem.roles[:2])
    assert out.size == 0
    np.testing.assert_allclose(maximum, x.max(-1), rtol=1e-5)
    np.testing.assert_allclose(total, np.exp(x - x.max(-1, keepdims=True)).sum(-1), rtol=1e-5)


# Gradients of q, k and v


@pytest.mark.parametrize(
    ("modifiers", "steps"),
    [
        ((), ()),
        ((), (SCALE,)),
        ((), (SCALE, CAUSAL)),
        ((), (SCALE, Step("band", low=-30, high=0, value=float(np.finfo(np.float32).min)))),
        ((), (SCALE, Step("band", low=100, high=200, value=BIG))),
        ((), (SCALE, Step("band", low=-5, value=-1.0), Step("scale", value=1.5))),
        ((), (SCALE, Step("band_add", high=0, value=-3.0), Step("offset", value=2.0))),
        ((), (SCALE, Step("tanh"), Step("scale", value=3.0))),
        ((), (Step("tanh"), Step("scale", value=2.0), Step("tanh"))),
        ((), (SCALE, Step("maximum", value=-0.3), Step("minimum", value=0.4))),
        ((("1 t s", "float32"),), (SCALE, Step("add", operand=3))),
        ((("b s", "float16"),), (Step("multiply", operand=3), SCALE)),
        ((("b 1 s", "bool"),), (SCALE, Step("select", operand=3, value=BIG))),
        ((("b t", "bool"),), (SCALE, Step("select", operand=3, value=BIG))),  # rows masked as a whole
        ((("t s", "int32"),), (SCALE, Step("add", operand=3))),
        ((("b h t s", "bool"),), (SCALE, Step("post_select", operand=3), Step("post_scale", value=1.25))),
        ((("b h t s", "float32"),), (SCALE, CAUSAL, Step("post_multiply", operand=3))),
        ((("h", "float32"),), (SCALE, CAUSAL, Step("sink", operand=3))),
        ((("b h t", "float32"),), (SCALE, Step("sink", operand=3))),
    ],
)
def test_steps(modifiers: tuple[tuple[str, str], ...], steps: tuple[Step, ...]) -> None:
    Problem(modifiers=modifiers, steps=steps).check()


@pytest.mark.parametrize(
    ("modifiers", "steps"),
    [
        ((("h t s", "bfloat16"),), (SCALE, Step("subtract", operand=3))),
        ((("t 1", "float32"),), (SCALE, Step("tanh"), Step("divide", operand=3))),
        ((("t s", "bool"),), (SCALE, Step("select", operand=3, negated=True, value=BIG), CAUSAL)),
        ((("b h t s", "bool"),), (SCALE, Step("post_select", operand=3, negated=True), Step("post_scale", value=1.25))),
        ((), (SCALE, Step("maximum", value=-0.3), Step("minimum", value=0.4), Step("tanh"))),
        ((("h", "float32"), ("h t s", "float32")), (SCALE, Step("multiply", operand=4), Step("sink", operand=3))),
        ((("h t s", "int32"), ("b h t s", "float32")), (Step("add", operand=3), Step("post_multiply", operand=4))),
    ],
)
def test_the_formula_of_the_dialect(modifiers: tuple[tuple[str, str], ...], steps: tuple[Step, ...]) -> None:
    """Also steps that are turned around before the kernel sees them."""
    Problem(modifiers=modifiers, steps=steps).check_by_formula()


def test_the_two_references_agree() -> None:
    modifiers = (("h t s", "float32"), ("b s", "float32"), ("h", "float32"), ("b h t s", "float32"), ("b t s", "bool"))
    steps = (
        SCALE, Step("multiply", operand=3), Step("add", operand=4), Step("tanh"), Step("scale", value=3.0),
        Step("maximum", value=-2.0), Step("minimum", value=1.0), Step("band", low=-40, high=0, value=BIG),
        Step("select", operand=7, value=BIG), Step("band_add", high=-3, value=-2.0), Step("sink", operand=5),
        Step("post_multiply", operand=6), Step("post_select", operand=7),
    )  # fmt: skip
    layouts = ("b t (h g) d", "b s h d", "b s h e", "b t (h g) e")
    gradients = [(role, layout, 0.5) for role, layout in enumerate((*layouts[:3], "h t s", "s", "h", "t b"))]
    axes = {"b": 2, "h": 2, "g": 2, "t": 33, "s": 41, "d": 5, "e": 6}
    problem = Problem(axes=axes, layouts=layouts, modifiers=modifiers, steps=steps, gradients=tuple(gradients))
    for one, other in zip(problem.reference(np.float64), problem.formula(), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-9, atol=1e-9)
    problem.check()


@pytest.mark.parametrize("residuals", [False, True])
@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_narrow_types(dtype: str, residuals: bool) -> None:
    got = Problem(dtype=dtype, steps=(SCALE, CAUSAL), residuals=residuals).check()
    assert all(x.dtype == jnp.dtype(dtype) for x in got)


@pytest.mark.parametrize("residuals", [False, True])
@pytest.mark.parametrize("v_dtype", ["float32", "bfloat16"])
def test_the_logits_are_those_of_the_forward(v_dtype: str, residuals: bool) -> None:
    """Large ones, of which the probabilities of a row are 1 together only if both sides round them alike."""
    problem = Problem(dtype="bfloat16", v_dtype=v_dtype, steps=(SCALE, CAUSAL), residuals=residuals)
    problem.roles[0] = (problem.roles[0] * np.float32(512)).astype(jnp.bfloat16)
    problem.check()
    problem.out_cotangent = np.ones_like(problem.out_cotangent)
    weights = np.asarray(problem.run()[2], np.float64).sum(1)  # dV is then the weight of each key
    np.testing.assert_allclose(weights, problem.axes["t"], rtol=4e-3)


def test_without_residuals() -> None:
    mask = (("b s", "bool"),)
    Problem(steps=(SCALE, CAUSAL, Step("select", operand=3, value=BIG)), modifiers=mask, residuals=False).check()


@pytest.mark.parametrize(
    ("axes", "layouts"),
    [
        ({"b": 2, "h": 3}, ("b h t d", "b h s d", "b h s e", "b h t e")),
        ({"b": 2, "h": 3}, ("b h d t", "b h d s", "b h e s", "b h e t")),
        ({"b": 2, "h": 3}, ("t b (h d)", "d s h b", "(e b s) h", "h t e b")),
        ({"b": 5}, ("b t d", "b s d", "b s e", "b t e")),
        ({}, ("t d", "s d", "s e", "t e")),
        ({"b": 2, "h": 4}, ("b t h d", "b s d", "b s e", "b t h e")),  # one K and V for all heads
        ({"b": 1, "h": 2, "g": 3}, ("b t (h g) d", "b s h d", "b s h e", "b t (h g) e")),
        ({"b": 2, "h": 2}, ("t d", "b s h d", "b s h e", "b t h e")),  # the same queries for all
    ],
)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_layouts(axes: dict[str, int], layouts: tuple[str, str, str, str], dtype: str) -> None:
    """Also gradients summed over the axes that an operand lacks."""
    Problem(axes={**axes, "t": 65, "s": 140, "d": 20, "e": 36}, layouts=layouts, dtype=dtype).check()


@pytest.mark.parametrize(
    "gradients",
    [
        ((0, "b t h g d", 1.0),),
        ((1, "b s h g d", 1.0), (2, "b g s h e", 1.0)),  # the groups kept apart
        ((1, "b s h d", -0.5),),
        ((2, "s h e", 1.0),),
        ((0, "t d", 2.0), (1, "s d", 1.0), (2, "s e", 3.0)),
        ((0, "b h g d", 1.0), (1, "s b h", 1.0), (2, "b h e", 1.0), (0, "b g h d t", 1.0)),
        (),
    ],
)
def test_which_gradients(gradients: tuple[tuple[int, str, float], ...]) -> None:
    layouts = ("b t (h g) d", "b s h d", "b s h e", "b t (h g) e")
    axes = {"b": 2, "h": 2, "g": 3, "t": 65, "s": 140, "d": 20, "e": 36}
    Problem(axes=axes, layouts=layouts, gradients=gradients, steps=(SCALE, CAUSAL)).check()


@pytest.mark.parametrize("cotangent", ["b t h e", "h e b t", "b h e", "1 1"])
def test_cotangents(cotangent: str) -> None:
    Problem(cotangent=cotangent).check()


# Gradients of modifiers


@pytest.mark.parametrize("layout", ["b h t s", "1 h t s", "h s t", "t s", "b 1 1 s", "h t 1", "s", "t", "h", "1"])
@pytest.mark.parametrize("of_all", [False, True])
def test_gradients_of_a_bias(layout: str, of_all: bool) -> None:
    others = tuple((role, name, 1.0) for role, name in enumerate(BTHD[:3])) if of_all else ()
    Problem(
        modifiers=((layout, "float32"),),
        steps=(SCALE, Step("add", operand=3), Step("tanh"), CAUSAL),  # without a tanh a bias of the row does nothing
        gradients=(*others, (3, layout, 1.0)),
    ).check()


@pytest.mark.parametrize(
    ("kind", "of"),
    [("add", "h t s"), ("subtract", "b s"), ("multiply", "t s"), ("divide", "h t s"), ("post_multiply", "b h t s")],
)
@pytest.mark.parametrize("residuals", [False, True])
def test_gradients_of_modifiers(kind: str, of: str, residuals: bool) -> None:
    problem = Problem(
        modifiers=((of, "float32"), ("b h t s", "float32")),
        steps=(SCALE, Step("add", operand=4), Step("tanh"), Step(kind, operand=3)),
        gradients=((3, of, 2.0), (4, "1 h t s", 1.0), (1, BTHD[1], 1.0), (3, "b h t s", -1.0)),
        residuals=residuals,
    )
    if kind == "divide":  # keeps clear of 0
        problem.roles[3] = np.sign(problem.roles[3]) * (np.abs(problem.roles[3]) + 0.5)
    problem.check_by_formula()


@pytest.mark.parametrize("layout", ["h", "b h t", "b 1 t 1", "1"])
def test_gradients_of_a_sink(layout: str) -> None:
    Problem(
        modifiers=((layout, "float32"),),
        steps=(SCALE, CAUSAL, Step("sink", operand=3)),
        gradients=((3, layout, 1.0), (0, BTHD[0], 1.0)),
    ).check()


def test_a_modifier_of_several_steps() -> None:
    """Turned around in one of them, so that the kernel reads it twice."""
    steps = (SCALE, Step("add", operand=3), Step("tanh"), Step("subtract", operand=3), Step("multiply", operand=3))
    Problem(
        modifiers=(("h t s", "float32"),), steps=steps, gradients=((3, "h t s", 1.0), (0, BTHD[0], 1.0))
    ).check_by_formula()


def test_a_modifier_that_no_step_reads_has_the_gradient_zero() -> None:
    (got,) = Problem(modifiers=(("t s", "float32"),), gradients=((3, "t s", 1.0),)).run()
    assert not got.any()


@st.composite
def problems(draw: st.DrawFn) -> Problem:
    """Any layouts and steps; gradients of everything, summed over any axes but those that make the sum cancel."""
    parallel = {name: draw(st.integers(1, 3)) for name in "bgh"[: draw(st.integers(0, 3))]}
    size = st.one_of(st.integers(1, 20), st.sampled_from([47, 48, 49, 63, 64, 65, 129]))
    axes = {**parallel, **{name: draw(size) for name in "tsde"}}

    def layout(last: str) -> str:
        kept = [name for name in parallel if draw(st.booleans())]
        return " ".join(draw(st.permutations([*kept, *last])))

    def whole(last: str) -> str:
        return " ".join(draw(st.permutations([*parallel, *last])))

    modifiers = (
        (layout("ts"), "float32"),
        (layout(draw(st.sampled_from(["", "s", "ts"]))), "bool"),
        (layout("t"), "float32"),
    )
    low = draw(st.integers(-100, 20))
    candidates = [
        SCALE,
        Step("add", operand=3),
        Step("multiply", operand=3),
        Step("tanh"),
        Step("select", operand=4, value=draw(st.sampled_from([BIG, -1e4, 0.0]))),
        Step("band", low=low, high=low + draw(st.integers(0, 200)), value=draw(st.sampled_from([BIG, -7.0]))),
    ]
    sink = [Step("sink", operand=5)] if draw(st.booleans()) else []
    steps = (SCALE, *draw(st.lists(st.sampled_from(candidates), max_size=4)), *sink)
    last = ("td", "sd", "se", "ts", "", "t")
    read = {step.operand for step in steps} | {0, 1, 2}
    return Problem(
        axes=axes,
        layouts=(whole("td"), layout("sd"), layout("se"), whole("te")),
        cotangent=whole("te"),
        modifiers=modifiers,
        steps=steps,
        gradients=tuple((role, layout(last[role]), 1.0) for role in (0, 1, 2, 3, 5) if role in read),
        seed=draw(st.integers(0, 99)),
    )


@settings(max_examples=40, deadline=None, derandomize=True)
@given(problems())
def test_any_layout_and_program(problem: Problem) -> None:
    problem.check()


# Sizes


@pytest.mark.parametrize("t", [1, 7, 63, 130])
@pytest.mark.parametrize("s", [1, 7, 63, 130, 260])
def test_ragged_lengths(t: int, s: int) -> None:
    layouts = ("h t d", "h s d", "h s e", "h t e")
    Problem(axes={"h": 2, "t": t, "s": s, "d": 17, "e": 11}, layouts=layouts, steps=(SCALE, CAUSAL)).check()


@pytest.mark.parametrize("empty", ["b", "t", "s", "d", "e"])
def test_empty_axes(empty: str) -> None:
    """Gradients are 0, but for those of values and bias where only queries and keys are empty."""
    axes = {"b": 2, "h": 3, "t": 7, "s": 9, "d": 4, "e": 5} | {empty: 0}
    gradients = tuple((role, layout, 1.0) for role, layout in enumerate(("b t h d", "s h d", "b s h e", "h t s")))
    got = Problem(
        axes=axes, modifiers=(("b h t s", "float32"),), steps=(SCALE, Step("add", operand=3)), gradients=gradients
    ).run()
    for x, (role, _, _) in zip(got, gradients, strict=True):
        assert not x.any() or (empty == "d" and role >= 2)


@pytest.mark.parametrize(("d", "e"), [(1, 1), (3, 5), (80, 33), (128, 64), (300, 270)])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_depths(d: int, e: int, dtype: str) -> None:
    Problem(axes={"b": 1, "h": 2, "t": 50, "s": 131, "d": d, "e": e}, dtype=dtype, steps=(SCALE, CAUSAL)).check()


def test_many_queries_at_a_time() -> None:
    layouts = ("h t d", "h s d", "h s e", "h t e")
    Problem(axes={"h": 2, "t": 900, "s": 700, "d": 16, "e": 16}, layouts=layouts, steps=(SCALE, CAUSAL)).check()


# Masks and special values


@pytest.mark.parametrize("fill", [-1e4, BIG, float(np.finfo(np.float32).min), 0.0, 3.0])
@pytest.mark.parametrize(("low", "high"), [(None, 0), (0, None), (-5, 5), (-300, -140), (10, -10), (500, 600)])
def test_bands(low: int | None, high: int | None, fill: float) -> None:
    """Also rows no key is left to, whose fills then count, and blocks that are skipped where they do not."""
    Problem(
        axes={"h": 2, "t": 300, "s": 320, "d": 8, "e": 8},
        layouts=("h t d", "h s d", "h s e", "h t e"),
        steps=(SCALE, Step("band", low=low, high=high, value=fill)),
    ).check()


@pytest.mark.parametrize("fill", [-1e9, BIG])
def test_rows_masked_as_a_whole_have_gradients_of_the_values_only(fill: float) -> None:
    problem = Problem(modifiers=(("1 1", "bool"),), steps=(SCALE, Step("select", operand=3, value=fill)))
    problem.roles[3][:] = False
    dq, dk, dv = problem.check()
    assert not dq.any()
    assert not dk.any()
    mean = problem.out_cotangent.sum(1, keepdims=True) / problem.axes["s"]
    np.testing.assert_allclose(dv, np.broadcast_to(mean, dv.shape), atol=1e-6)


def test_rows_masked_with_infinity_are_nan() -> None:
    problem = Problem(modifiers=(("t", "bool"),), steps=(SCALE, Step("select", operand=3, value=-np.inf)))
    dq, dk, dv = problem.run()
    assert np.isfinite(dq).all() and np.isfinite(dk).all()  # the select keeps them out
    assert np.isnan(dv).all()


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("where", ["q", "k", "v", "a factor", "the cotangent"])
@pytest.mark.parametrize("step", ["multiply", "post_multiply"])
def test_what_is_not_finite_counts_where_p_is_0(where: str, value: float, step: str) -> None:
    """0 · inf is NaN in the plain formula: a block outside the band is not skipped then."""
    factor = Step(step, operand=3)
    problem = Problem(
        axes={"b": 1, "h": 2, "t": 200, "s": 300, "d": 8, "e": 8},
        modifiers=(("h t s", "float32"),),
        steps=(SCALE, factor, CAUSAL) if step == "multiply" else (SCALE, CAUSAL, factor),
    )
    arrays = dict(
        zip(("q", "k", "v", "a factor", "the cotangent"), (*problem.roles, problem.out_cotangent), strict=True)
    )
    arrays[where].reshape(-1)[arrays[where].size * 3 // 4] = value
    exact = problem.reference(np.float64)
    assert any(np.isnan(x).any() for x in exact)
    problem.check()


def test_an_overflow_in_one_row_leaves_the_others_alone() -> None:
    problem = Problem(axes={"b": 1, "h": 2, "t": 200, "s": 300, "d": 8, "e": 8}, steps=(SCALE, CAUSAL))
    problem.out_cotangent[0, 3, 1, 5] = np.inf
    dq, _, dv = problem.run()
    assert not np.isfinite(dv[0, :, 1, 5]).any()
    assert np.isfinite(dv[0, :, 0]).all() and np.isfinite(dq[0, :3]).all()


# Gradients that cancel


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("t", [48, 200])
def test_where_one_key_has_all_the_weight_the_gradient_is_0(dtype: str, t: int) -> None:
    """Bit for bit: it may meet anything in the products with queries and keys."""
    problem = Problem(axes={"b": 2, "h": 3, "t": t, "s": 150, "d": 24, "e": 40}, steps=(SCALE, CAUSAL), dtype=dtype)
    dq, _, _ = problem.check()
    assert not dq[:, 0].any()
    problem.roles[0] *= np.asarray(1e5, problem.roles[0].dtype)
    dq, dk, _ = problem.run()
    exact_dq, exact_dk, _ = problem.reference(np.float64)
    for got, exact in ((dq, exact_dq), (dk, exact_dk)):
        zero = np.abs(exact).max(-1) < 1e-37
        assert zero.any()
        assert not got[zero].any()


@pytest.mark.parametrize("sink", [(), (Step("sink", operand=3),)])
def test_the_error_of_delta_is_not_left_where_all_dp_are_equal(sink: tuple[Step, ...]) -> None:
    """Equal values: dx is 0, or with a sink what the sink gets, and so is dq."""
    problem = Problem(modifiers=(("h", "float32"),), steps=(SCALE, *sink))
    problem.roles[2][:] = problem.roles[2][:, :1]
    problem.roles[3][:] = -12.0  # a probability of 1e-8
    dq, dk, _ = problem.run()
    exact_dq, exact_dk, _ = problem.reference(np.float64)
    assert np.abs(exact_dq).max() < 1e-6
    assert np.abs(dq - exact_dq).max() < 1e-10
    assert np.abs(dk - exact_dk).max() < 1e-10


def test_the_factor_brings_back_what_the_scale_makes_subnormal() -> None:
    gradients = ((0, BTHD[0], 2.0**30), (1, BTHD[1], 2.0**30))
    problem = Problem(steps=(Step("scale", value=2.0**-30),), gradients=gradients)
    problem.out_cotangent *= np.float32(2.0**-100)
    for got, exact in zip(problem.run(), problem.reference(np.float64), strict=True):
        np.testing.assert_allclose(got, exact, rtol=1e-4, atol=1e-5 * np.abs(exact).max())


def test_a_log_sum_exp_in_place_of_the_maximum() -> None:
    problem = Problem(steps=(SCALE, CAUSAL))
    operands = problem.operands()
    call = jax.jit(attention_vjp_implementation.build(problem.request(operands)))
    expected = call(*operands)
    operands[4], operands[5] = operands[4] + np.log(operands[5]), np.ones_like(operands[5])
    for got, other in zip(call(*operands), expected, strict=True):
        np.testing.assert_allclose(got, other, atol=2e-6)


# Threads


def test_the_same_bits_each_time_and_from_several_threads() -> None:
    """One position on the parallel axes, so that the queries are split between threads."""
    problem = Problem(axes={"t": 200, "s": 500, "d": 16, "e": 16}, layouts=("t d", "s d", "s e", "t e"))
    problem.check()
    operands, results = problem.operands(), {}
    call = jax.jit(attention_vjp_implementation.build(problem.request(operands)))
    expected = call(*operands)

    def run(i: int) -> None:
        results[i] = call(*operands)

    threads = [threading.Thread(target=run, args=(i,)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)
    for i in range(8):
        for got, first in zip(results[i], expected, strict=True):
            np.testing.assert_array_equal(got, first)


# Refusals of the implementation


@pytest.mark.parametrize(
    ("problem", "min_seq", "reason"),
    [
        (Problem(), 151, "below min-seq"),
        (Problem(dtype="float64"), 0, "takes float32, bfloat16, float16, not float64"),
        (
            Problem(modifiers=(("t s", "bool"),), steps=(Step("post_select", operand=3, value=0.5),)),
            0,
            "replaced by a constant other than 0",
        ),
        (
            Problem(modifiers=(("t s", "bool"),), steps=(Step("select", operand=3),), gradients=((3, "t s", 1.0),)),
            0,
            "a gradient of a mask",
        ),
        (
            Problem(modifiers=(("t", "float32"),), steps=(Step("sink", operand=3),), gradients=((3, "t s", 1.0),)),
            0,
            "the gradient of an attention sink is wanted for each key",
        ),
        (
            Problem(modifiers=(("t s", "float32"),), steps=(Step("divide", operand=3),), gradients=((3, "t", 1.0),)),
            0,
            "the gradient of a divisor is wanted summed",
        ),
    ],
)
def test_refuses(problem: Problem, min_seq: int, reason: str) -> None:
    rows = np.zeros(problem.spec.attention.rows.shape(problem.axes), np.float32)
    out = np.zeros(problem.spec.attention.out.shape(problem.axes), np.float32)
    request = problem.request([*problem.roles, out, rows, rows, problem.out_cotangent], min_seq=min_seq)
    refusal = attention_vjp_implementation.refuse(request)
    assert isinstance(refusal, Refusal)
    assert reason in refusal.reason


# Bad arguments of the call


def _arguments() -> tuple[list[Any], dict[str, Any]]:
    """Arrays and keywords of a call that works: two heads, 70 queries, 150 keys, depths 8 and 6, a bias and a mask."""
    rng = np.random.default_rng(0)
    shapes = [(2, 70, 8), (2, 150, 8), (2, 150, 6), (2, 70), (2, 70), (2, 70, 6)]
    arrays: list[Any] = [rng.normal(size=shape).astype(np.float32) for shape in shapes]
    bias, mask = rng.normal(size=(70, 150)).astype(np.float32), np.ones((70, 150), bool)
    keywords = {
        "dims": [2],
        "sizes": (70, 150, 8, 6),
        "q_strides": [560, 8, 1],
        "k_strides": [1200, 8, 1],
        "v_strides": [900, 6, 1],
        "cotangent_strides": [420, 6, 1],
        "mod_strides": [[0, 150, 1], [0, 150, 1]],
        "steps": [KernelStep(Opcode.ADD, modifier=0), KernelStep(Opcode.SELECT, BIG, modifier=1)],
        "gradients": [
            kernel.Gradient(kernel.Q, [560, 8, 1], (2, 70, 8)),
            kernel.Gradient(kernel.FIRST_MODIFIER, [0, 150, 1], (70, 150)),
        ],
    }
    return [*arrays, [bias, mask]], keywords


def _call(arrays: list[Any], keywords: dict[str, Any]) -> list[Array]:
    return [np.asarray(x) for x in jax.jit(lambda x: kernel.attention_vjp_call(*x, **keywords))(arrays)]


def test_the_call_works_before_it_is_broken() -> None:
    dq, dbias = _call(*_arguments())
    assert np.isfinite(dq).all() and np.isfinite(dbias).all()


def _gradient(role: int, strides: Sequence[int], *shape: int) -> dict[str, Any]:
    return {"gradients": [kernel.Gradient(role, strides, shape)]}


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"dims": [3]}, "the strides of q reach element"),
        ({"dims": [2, 2]}, "attribute q_strides has 3 elements, expected 4"),
        ({"sizes": (70, 150, 8)}, "attribute sizes has 3 elements, expected 4"),
        ({"sizes": (70, 150, 8, -6)}, "extent E is -6"),
        ({"sizes": (71, 150, 8, 6)}, "the strides of q reach element"),
        ({"sizes": (70, 151, 8, 6)}, "the strides of k reach element"),
        ({"sizes": (69, 150, 8, 6)}, "maximum has 140 elements, expected 138"),
        ({"k_strides": [2**62, 2**62, 1]}, "the strides of k are negative or overflow"),
        ({"cotangent_strides": [420, 6]}, "attribute cotangent_strides has 2 elements, expected 3"),
        ({"cotangent_strides": [420, 7, 1]}, "the strides of cotangent reach element"),
        ({"cotangent_strides": [420, -6, 1]}, "the strides of cotangent are negative"),
        ({"steps": [KernelStep(99)]}, "step 0 has the unknown opcode 99"),
        ({"steps": [KernelStep(Opcode.ADD, modifier=1)]}, "step 0 .* expects modifier 1 to be f32"),
        ({"steps": [KernelStep(Opcode.POST_SELECT, 0.5, modifier=1)]}, "step 0 selects the probability 0.5"),
        (_gradient(-1, [560, 8, 1], 2, 70, 8), "gradient 0 is of role -1, there are 5"),
        (_gradient(5, [0, 150, 1], 70, 150), "gradient 0 is of role 5, there are 5"),
        (_gradient(4, [0, 150, 1], 70, 150), "gradient 0 is of modifier 1, which is pred"),
        (_gradient(0, [560, 8], 2, 70, 8), "gradient_strides has 2 elements, expected 3"),
        (_gradient(0, [560, 8, 1], 2, 70, 7), "the strides of gradient 0 reach element"),
        (_gradient(0, [560, 8, 1], 2, 71, 8), "the strides of gradient 0 must visit each of its 1136 elements"),
        (_gradient(1, [560, 8, 1], 2, 150, 8), "the strides of gradient 0 must visit each"),
        (_gradient(2, [-900, 6, 1], 2, 150, 6), "the strides of gradient 0 are negative"),
        (
            {"steps": [KernelStep(Opcode.SINK, modifier=0)], **_gradient(3, [0, 150, 1], 70, 150)},
            "gradient 0 is of a sink and must not vary along s",
        ),
        (
            {
                "sizes": (70, 2**30, 2**30, 6),
                "q_strides": [0, 0, 0],
                "k_strides": [0, 0, 0],
                "v_strides": [0, 0, 0],
                "mod_strides": [[0, 0, 0], [0, 0, 0]],
                **_gradient(1, [0, 0, 0], 1),
            },
            "are too many",
        ),
    ],
)
def test_bad_arguments_raise(changed: dict[str, Any], message: str) -> None:
    arrays, keywords = _arguments()
    with pytest.raises(jax.errors.JaxRuntimeError, match=f"zenith_attention_vjp: .*{message}"):
        _call(arrays, keywords | changed)


@pytest.mark.parametrize(
    ("position", "dtype", "message"),
    [
        (0, np.int32, "q has element type .*, expected f32, bf16, f16 or pred"),
        (2, bool, "v has element type pred"),
        (3, jnp.bfloat16, "maximum has element type .*, expected f32"),
        (4, np.int32, "sum has element type .*, expected f32"),
        (5, bool, "cotangent has element type pred"),
    ],
)
def test_bad_element_types_raise(position: int, dtype: Any, message: str) -> None:
    arrays, keywords = _arguments()
    arrays[position] = arrays[position].astype(dtype)
    with pytest.raises(jax.errors.JaxRuntimeError, match=message):
        _call(arrays, keywords)


def test_the_gradient_of_a_sink_has_its_elements_where_there_is_no_key() -> None:
    arrays, keywords = _arguments()
    arrays[1], arrays[2], sink = arrays[1][:, :0], arrays[2][:, :0], np.zeros(70, np.float32)
    arrays[6] = [sink]
    dq = kernel.Gradient(kernel.Q, [560, 8, 1], (2, 70, 8))
    keywords |= {
        "sizes": (70, 0, 8, 6),
        "mod_strides": [[0, 1, 0]],
        "steps": [KernelStep(Opcode.SINK, modifier=0)],
        "gradients": [dq, kernel.Gradient(kernel.FIRST_MODIFIER, [0, 1, 0], (70,))],
    }
    _, dsink = _call(arrays, keywords)
    np.testing.assert_array_equal(dsink, 0)
    keywords["gradients"] = [dq, kernel.Gradient(kernel.FIRST_MODIFIER, [0, 1, 0], (0,))]
    with pytest.raises(jax.errors.JaxRuntimeError, match="gradient 1 reach element 69, the operand has 0"):
        _call(arrays, keywords)


def test_bad_residuals_of_the_forward_raise(monkeypatch: pytest.MonkeyPatch) -> None:
    arrays, keywords = _arguments()
    for name in ("cotangent_strides", "gradients"):
        del keywords[name]
    forward = {**keywords, "out_strides": [420, 6, 1], "out_shape": (2, 70, 6), "out_dtype": np.float32}
    q, k, v, *_, modifiers = arrays
    out, maximum, total = jax.jit(lambda: attention_residuals_call(q, k, v, modifiers, **forward))()
    assert out.shape == (2, 70, 6) and maximum.shape == total.shape == (2, 70)
    wrong = {**forward, "dims": [1], "out_shape": (70, 6)}  # more rows than there are
    monkeypatch.setattr(jax, "ShapeDtypeStruct", lambda shape, dtype: jax.core.ShapedArray((*shape[:-1], 1), dtype))
    with pytest.raises(jax.errors.JaxRuntimeError, match="zenith_attention: "):
        jax.jit(lambda: attention_residuals_call(q, k, v, modifiers, **wrong))()
