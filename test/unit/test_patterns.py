"""Patterns as rewrites: what is replaced, refused and said about it; and a pass in a package of one's own."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jaxlib.mlir import ir

import zenith_mlir as zenith
from zenith_mlir.canonical import build
from zenith_mlir.ir.facts import walk_named
from zenith_mlir.match import ops as m
from zenith_mlir.match.pattern import (
    Match,
    Pattern,
    PatternError,
    Replacement,
    apply_patterns,
    replace_with,
    traced,
)
from zenith_mlir.remarks import Remark

ROOT = Path(__file__).parents[2]


class SquareRelu(Pattern):
    pattern = traced(lambda x: jax.nn.relu(x) ** 2, x="*b")
    numerics = "exact"

    def rewrite(self, match: Match) -> Replacement:
        return replace_with(lambda x: jnp.where(x <= 0, 0, x * x))


class DoubleNegation(Pattern):
    """Built by hand: -(x + c) is (-c) - x."""

    pattern = m.negate(m.add("x", m.capture("c", m.splat())))

    def check(self, match: Match) -> str | None:
        return "the constant is not finite" if np.isinf(match.numbers["c"]) else None

    def rewrite(self, match: Match) -> ir.Value:
        return build.elementwise("subtract", build.splat_constant(match["x"].type, -match.numbers["c"]), match["x"])


class Reassociate(Pattern):
    """(x + c) + d is x + (c + d)."""

    pattern = m.add(m.add("x", m.capture("c", m.splat())), m.capture("d", m.splat()))
    numerics = "fast"

    def rewrite(self, match: Match) -> Any:
        total = match.numbers["c"] + match.numbers["d"]
        return [build.elementwise("add", match["x"], build.splat_constant(match["x"].type, total))]


def program(function: Callable[..., Any], *shapes: tuple[int, ...], dtype: str = "float32") -> zenith.Module:
    specs = [jax.ShapeDtypeStruct(shape, dtype) for shape in shapes]
    return zenith.trace(function, *specs).run("prepare", target="cpu")


def rewritten(
    module: zenith.Module, *patterns: Pattern, numerics: Any = "fast"
) -> tuple[zenith.Module, zenith.PassContext, int]:
    copy, ctx = module.clone(), zenith.PassContext(numerics=numerics, pass_name="test")
    count = apply_patterns(copy, ctx, patterns)
    assert copy.operation.verify()
    return copy, ctx, count


def names(module: zenith.Module) -> list[str]:
    (main,) = walk_named(module.operation, "func.func")
    return [op.operation.name.removeprefix("stablehlo.") for op in main.regions[0].blocks[0].operations]


def kinds(ctx: zenith.PassContext) -> list[str]:
    return [remark.kind for remark in ctx.remarks]


# ---- Rewriting ----


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_function_is_put_in_place_and_changes_no_bit(dtype: str) -> None:
    special = jnp.asarray([-np.inf, -1.5, -0.0, 0.0, 1e-30, 1.5, 1e30, np.inf, np.nan], dtype)

    def function(x: jax.Array) -> jax.Array:
        return jax.nn.relu(x) ** 2 + 1

    module, _, count = rewritten(program(function, special.shape, dtype=dtype), SquareRelu())
    assert count == 1
    assert "maximum" not in names(module)
    assert "select" in names(module)
    (result,) = module.compile("cpu")(special)
    np.testing.assert_array_equal(np.asarray(result, np.float64), np.asarray(jax.jit(function)(special), np.float64))


def test_a_value_is_built_by_hand_and_dead_operations_go() -> None:
    module, _, _ = rewritten(program(lambda x: -(x + 2.0), (3,)), DoubleNegation())
    assert names(module) == ["constant", "subtract", "func.return"]
    (result,) = module.compile("cpu")(jnp.asarray([1.0, 2.0, 3.0]))
    np.testing.assert_array_equal(result, [-3.0, -4.0, -5.0])


def test_values_that_others_use_stay() -> None:
    def function(x: jax.Array) -> tuple[jax.Array, jax.Array]:
        y = jax.nn.relu(x)
        return y * y, y

    module, _, count = rewritten(program(function, (3,)), SquareRelu())
    assert count == 1
    assert {"maximum", "select"} <= set(names(module))

    class Alone(SquareRelu):
        single_use = True

    module, ctx, count = rewritten(program(function, (3,)), Alone())
    assert count == 0
    assert [remark.reason for remark in ctx.remarks] == ["the result of maximum is used elsewhere too"]


def test_rewrites_feed_one_another_to_the_end() -> None:
    module, ctx, count = rewritten(program(lambda x: jnp.tanh(((((x + 1) + 2) + 3) + 4) + 5), (3,)), Reassociate())
    assert names(module).count("add") == 1
    assert count == 4
    assert ctx.statistics == {"reassociate": 4}
    (result,) = module.compile("cpu")(jnp.zeros(3))
    assert float(result[0]) == pytest.approx(np.tanh(15.0))


def test_the_first_of_several_patterns_that_fits_is_taken() -> None:
    class Other(SquareRelu):
        pass

    _, ctx, _ = rewritten(program(lambda x: jax.nn.relu(x) ** 2, (3,)), Other(), SquareRelu())
    assert ctx.statistics == {"other": 1}


def test_a_scalar_arrives_as_a_number() -> None:
    seen = []

    class Rms(Pattern):
        pattern = traced(lambda x, eps: x * jax.lax.rsqrt(jnp.mean(x * x, -1, keepdims=True) + eps), x="*b n", eps="")

        def rewrite(self, match: Match) -> Replacement:
            def function(x: jax.Array, eps: float) -> jax.Array:
                seen.append(eps)
                norm = jnp.sqrt(jnp.vecdot(x, x)[..., None] / x.shape[-1] + eps)
                return x / norm

            return replace_with(function)

    x = np.random.default_rng(0).normal(size=(4, 8)).astype("float32")
    module, _, count = rewritten(
        program(lambda x: x * jax.lax.rsqrt(jnp.mean(x * x, -1, keepdims=True) + 1e-2), (4, 8)), Rms()
    )
    assert count == 1
    assert set(seen) == {float(np.float32(1e-2))}
    wide = x.astype(np.float64)
    exact = wide / np.sqrt((wide * wide).mean(-1, keepdims=True) + float(np.float32(1e-2)))
    (result,) = module.compile("cpu")(x)
    np.testing.assert_allclose(np.asarray(result, np.float64), exact, rtol=5e-7, atol=0)


def test_inside_of_a_loop_and_not_inside_of_a_reduction() -> None:
    class Add(Pattern):
        pattern = m.add("x", "y")

        def rewrite(self, match: Match) -> ir.Value:
            return build.elementwise("maximum", match["x"], match["y"])

    def function(x: jax.Array) -> jax.Array:
        return jax.lax.fori_loop(0, 3, lambda i, y: jax.nn.relu(y) ** 2 + jnp.sum(x), x)

    module, ctx, count = rewritten(program(function, (3,)), SquareRelu())
    assert count == 1
    assert kinds(ctx) == ["passed"]
    assert "stablehlo.select" in module.text()
    module, _, _ = rewritten(program(lambda x: jnp.sum(x) + 1, (3,)), Add())
    assert "applies stablehlo.add" in module.text()
    assert "stablehlo.maximum" in module.text()


def test_decompositions_of_composites_stay_as_they_are() -> None:
    class Exp(Pattern):
        pattern = m.exponential("x")

        def rewrite(self, match: Match) -> ir.Value:
            return build.elementwise("tanh", match["x"])

    def function(q: jax.Array, k: jax.Array, v: jax.Array) -> jax.Array:
        return jnp.exp(jax.nn.softmax(q @ k.T, -1) @ v)

    raised = program(function, (8, 4), (8, 4), (8, 4)).run("raise-attention", target="cpu")
    assert len(walk_named(raised.operation, "stablehlo.composite")) == 1
    module, _, count = rewritten(raised, Exp())
    assert count == 1
    assert "stablehlo.exponential" in module.text()


# ---- Remarks ----


def missed_reasons(ctx: zenith.PassContext) -> list[str]:
    return [remark.reason for remark in ctx.remarks if remark.kind == "missed"]


def test_one_remark_a_site_at_the_users_line() -> None:
    def function(x: jax.Array) -> jax.Array:
        good = jax.nn.relu(x) ** 2
        near = jnp.maximum(x, 1.0) ** 2
        return good + near + x * x

    _, ctx, _ = rewritten(program(function, (3, 4)), SquareRelu())
    passed, missed = ctx.remarks
    line = function.__code__.co_firstlineno
    assert (passed.kind, passed.line, passed.args) == (
        "passed",
        line + 1,
        {"pattern": "square-relu", "b": (3, 4)},
    )
    assert (missed.kind, missed.line) == ("missed", line + 2)
    assert Path(missed.file).name == Path(__file__).name
    assert missed.reason == "operand 2 of maximum is the constant 1, not the constant 0"
    assert ctx.statistics == {"square-relu": 1, "square-relu missed": 1}
    assert Remark.from_json(passed.to_json()).args["b"] == [3, 4]


def test_check_refuses_with_its_reason_once() -> None:
    module = program(lambda x: (-(x + jnp.inf), -(x + 1.0)), (3,))
    _, ctx, count = rewritten(module, DoubleNegation())
    assert count == 1
    assert missed_reasons(ctx) == ["the constant is not finite"]


def test_the_numerics_policy_refuses() -> None:
    module = program(lambda x: jnp.tanh((x + 1) + 2), (3,))
    _, ctx, count = rewritten(module, Reassociate(), numerics="sound")
    assert count == 0
    assert missed_reasons(ctx) == ["reassociate changes more than numerics=sound allows; it takes numerics=fast"]
    assert rewritten(program(lambda x: jax.nn.relu(x) ** 2, (3,)), SquareRelu(), numerics="exact")[2] == 1


def test_of_several_patterns_the_deepest_miss_is_told() -> None:
    class Triple(Pattern):
        pattern = m.multiply(m.capture("y", m.maximum(m.negate("x"), 1.0)), "y")

        def rewrite(self, match: Match) -> Any:
            raise AssertionError("it never matches")

    _, ctx, _ = rewritten(program(lambda x: jnp.maximum(-x, 2.0) ** 2, (3,)), SquareRelu(), Triple())
    (remark,) = ctx.remarks
    assert remark.args["pattern"] == "triple"
    assert "the constant 2, not the constant 1" in remark.reason


# ---- Mistakes in a pattern ----


def pattern_of(rewrite: Callable[[Match], Any]) -> Pattern:
    class Wrong(Pattern):
        pattern = m.multiply(m.capture("y", m.maximum("x", 0.0)), "y")

        def rewrite(self, match: Match) -> Any:
            return rewrite(match)

    return Wrong()


@pytest.mark.parametrize(
    ("rewrite", "message"),
    [
        (lambda match: None, "wrong rewrites tensor<3xf32> to nothing; one value of that type is expected"),
        (lambda match: match.value, "rewrites a value to itself"),
        (lambda match: build.convert(match["x"], ir.F64Type.get()), "tensor<3xf32> to tensor<3xf64>"),
        (lambda match: replace_with(lambda x: x[:2]), r"float32\[3\] to float32\[2\]; its type must stay"),
        (lambda match: replace_with(lambda z: z), "takes z; the pattern captures x, y"),
        (lambda match: replace_with(lambda x: jnp.square(jnp.maximum(x, 0)) * 1), None),
        (lambda match: replace_with(lambda y: jnp.maximum(y, 0.0) * jnp.maximum(y, 0.0)), None),
    ],
)  # fmt: skip
def test_a_rewrite_that_does_not_fit(rewrite: Callable[[Match], Any], message: str | None) -> None:
    module = program(lambda x: jax.nn.relu(x) ** 2, (3,))
    if message is None:
        assert rewritten(module, pattern_of(rewrite))[2] == 1
    else:
        with pytest.raises(PatternError, match=message):
            rewritten(module, pattern_of(rewrite))


def test_a_rewrite_that_matches_itself_ends() -> None:
    def again(match: Match) -> ir.Value:
        zero = build.splat_constant(match["x"].type, 0.0)
        y = build.elementwise("maximum", match["x"], zero)
        return build.elementwise("multiply", y, y)

    with pytest.raises(PatternError, match="wrong: still matches after 64 rounds"):
        rewritten(program(lambda x: jax.nn.relu(x) ** 2, (3,)), pattern_of(again))


def test_a_class_without_a_pattern() -> None:
    with pytest.raises(PatternError, match="Empty needs `pattern = "):

        class Empty(Pattern):
            pass

    with pytest.raises(PatternError, match="numerics of Odd is one of exact, sound, fast"):

        class Odd(Pattern):
            pattern = m.negate("x")
            numerics = "exakt"  # type: ignore[assignment]


def test_closures_are_told_apart() -> None:
    """Two functions of one code that close over different numbers are two replacements."""

    class Scale(Pattern):
        pattern = m.tanh(m.capture("y", m.add("x", m.capture("c", m.splat()))))

        def rewrite(self, match: Match) -> Replacement:
            factor = match.numbers["c"]
            return replace_with(lambda x: x * factor)

    module, _, count = rewritten(program(lambda x: (jnp.tanh(x + 2), jnp.tanh(x + 3)), ()), Scale())
    assert count == 2
    assert [float(value) for value in module.compile("cpu")(jnp.float32(10))] == [20.0, 30.0]


# ---- A package of one's own ----


def test_a_pass_in_a_third_party_package(tmp_path: Path) -> None:
    """What an installation of the example leaves behind is on the path: its module and its entry points."""
    example = ROOT / "examples" / "square_relu_pass"
    project = tomllib.loads((example / "pyproject.toml").read_text())["project"]
    info = tmp_path / "square_relu_pass-0.1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: {project['version']}\n")
    groups = (
        (f"[{group}]", *(f"{n} = {v}" for n, v in points.items())) for group, points in project["entry-points"].items()
    )
    (info / "entry_points.txt").write_text("\n".join(line for group in groups for line in group) + "\n")
    code = f"""
import sys
sys.path[:0] = [{str(tmp_path)!r}, {str(example)!r}, {str(ROOT)!r}]
import zenith_mlir as zenith
from zenith_mlir import registry
assert "square-relu" in registry.names() and "square_relu_pass" not in sys.modules
import jax, jax.numpy as jnp
module = zenith.trace(lambda x: jax.nn.relu(x) ** 2, jnp.zeros((4, 8)))
module = module.run("prepare,square-relu", target="cpu")
assert [remark.pass_name for remark in module.remarks] == ["square-relu"], module.remarks
print(module.compile("cpu")(jnp.full((4, 8), 3.0))[0][0, 0])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "9.0"
