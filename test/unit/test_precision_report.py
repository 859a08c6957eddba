"""zenith.precision.report: the error of every value, what operations add to it, and what to deny."""

import fnmatch
import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jaxlib.mlir import ir

import zenith_mlir as zenith
from zenith_mlir import Module, Pass, PassContext, option, register
from zenith_mlir.errors import PassError, ZenithError
from zenith_mlir.ir.facts import element_type, is_float, shape, walk
from zenith_mlir.ir.location import UNKNOWN, Frame, source_frame
from zenith_mlir.ir.marks import mark, mark_of
from zenith_mlir.ir.probes import find, mark_values
from zenith_mlir.precision import PrecisionReport, report
from zenith_mlir.precision.deny import pattern_of
from zenith_mlir.precision.precision_report import Line
from zenith_mlir.precision.value_errors import distance, measure
from zenith_mlir.tools.zenith_precision import main

BF16 = 2.0**-8
NARROWED = ("add", "cosine", "dot_general", "exponential", "multiply", "subtract", "tanh")


@register("narrow")
@dataclass(frozen=True)
class Narrow(Pass):
    """A stand-in for cast-precision: operands and results of a few operations are rounded, but for lines denied."""

    compute: str = option("bf16", "the type to compute in")
    deny: str = option("", "patterns of zenith_mlir.precision.deny, separated by commas")

    def run(self, module: Module, ctx: PassContext) -> None:
        with module.context:
            narrow = ir.Type.parse(self.compute)
            for op in list(walk(module.operation)):
                if op.name.removeprefix("stablehlo.") in NARROWED and not self._leaves(op):
                    self._narrow(op, narrow)

    def _leaves(self, op: ir.Operation) -> bool:
        denied = pattern_of(op.name, source_frame(op.location)) in self.deny.split(",")
        return denied or not is_float(element_type(op.results[0]))

    def _narrow(self, op: ir.Operation, narrow: ir.Type) -> None:
        wide = op.results[0].type
        with ir.InsertionPoint(op), op.location:
            for i, operand in enumerate(list(op.operands)):
                op.operands[i] = convert(operand, ir.RankedTensorType.get(list(shape(operand)), narrow))
            op.results[0].set_type(ir.RankedTensorType.get(list(shape(op.results[0])), narrow))
        with ir.InsertionPoint.after(op), op.location:
            back = convert(op.results[0], wide)
        op.results[0].replace_all_uses_except(back, back.owner.operation)


def convert(value: ir.Value, type_: ir.Type) -> Any:
    return ir.Operation.create("stablehlo.convert", results=[type_], operands=[value]).results[0]


def normal(*sizes: int) -> np.ndarray[Any, Any]:
    return np.random.default_rng(sum(sizes)).standard_normal(sizes).astype(np.float32)


def row(found: PrecisionReport, op: str) -> Any:
    """The one value that a `stablehlo.<op>` computes."""
    (only,) = [each for each in found.rows if each.op == f"stablehlo.{op}"]
    return only


def rounded(x: Any) -> Any:
    return np.asarray(x).astype(jnp.bfloat16).astype(np.float64)


def relative(x: Any, y: Any) -> float:
    return float(np.linalg.norm(x - y) / np.linalg.norm(y))


# ---- the numbers


@pytest.mark.once
def test_what_is_measured() -> None:
    exact = np.array([3.0, 4.0, 1e6, 1e-6, 0.0, np.inf])
    run = np.array([3.0, 5.0, np.inf, 0.0, 0.0, np.inf], np.float16)
    shadow = np.array([3.0, 4.5, 1e6, 0.0, 0.0, np.inf])
    numbers = measure(run, exact, shadow)
    size = np.sqrt(3.0**2 + 4.0**2 + 1e-12)
    assert numbers.error == pytest.approx(1.0 / size)
    assert numbers.own_error == pytest.approx(0.5 / size)
    assert (numbers.overflow, numbers.own_overflow, numbers.underflow) == (1, 1, 1)
    assert measure(run, exact, np.where(exact == 1e6, np.inf, shadow)).own_overflow == 0
    subnormal = np.array([2.0**-15], np.float16)
    assert measure(subnormal, subnormal.astype(float), subnormal.astype(float)).underflow == 1
    assert measure(subnormal.astype(np.float32), np.array([1e-300]), np.array([0.0])).underflow == 0


@pytest.mark.once
def test_distance_of_what_has_no_size() -> None:
    assert distance(np.zeros(2), np.zeros(2), np.zeros(2)) == 0.0
    assert distance(np.ones(2), np.zeros(2), np.zeros(2)) == float("inf")
    assert distance(np.full(2, 2e-300), np.full(2, 1e-300), np.full(2, 1e-300)) == pytest.approx(1.0)
    assert distance(np.full(1, np.nan), np.ones(1), np.ones(1)) == float("inf")


# ---- marks


@pytest.mark.once
def test_marks_are_found_in_what_passes_make_of_locations() -> None:
    module = zenith.load("func.func @main(%x: tensor<2xf32>) -> tensor<2xf32> {\n"
                         "  %0 = stablehlo.tanh %x : tensor<2xf32>\n  return %0 : tensor<2xf32>\n}")  # fmt: skip
    with module.context:
        (tanh, _) = (op.operation for op in module.body.operations[0].regions[0].blocks[0].operations)
        line, marks = source_frame(tanh.location), []
        for number in range(2):
            mark(tanh, number)
            marks.append(tanh.location)
        first, second = marks
        assert source_frame(second) == line
        assert (mark_of(first), mark_of(second)) == (0, 1)
        assert mark_of(ir.Location.name("fused", first)) == 0
        assert mark_of(ir.Location.callsite(first, [second])) == 0
        assert mark_of(ir.Location.callsite(ir.Location.unknown(), [second])) == 1
        assert mark_of(ir.Location.fused([first, ir.Location.unknown()])) == 0
        assert mark_of(ir.Location.fused([first, ir.Location.name("x", second)])) is None
        assert mark_of(ir.Location.unknown()) is None


def test_values_are_found_behind_passes() -> None:
    module = zenith.trace(lambda x: jnp.tanh(x @ x)[:1] * 2, normal(4, 4))
    probes = mark_values(module.ir)
    assert [probe.op for probe in probes] == ["stablehlo.dot_general", "stablehlo.tanh", "stablehlo.multiply"]
    narrowed = module.run("narrow")
    with narrowed.context:
        assert [str(value.type.element_type) for value in find(narrowed.ir, probes).values()] == ["bf16"] * 3
    with module.context:
        for op in list(walk(module.operation)):
            if op.name == "stablehlo.dot_general":  # beside it, an operation that the same one became
                with ir.InsertionPoint.after(op), op.location:
                    ir.Operation.create("stablehlo.negate", results=[op.results[0].type], operands=[op.results[0]])
            if op.name == "stablehlo.tanh":
                op.results[0].set_type(ir.Type.parse("tensor<2x8xf32>"))
        left = find(module.ir, probes)
        assert [probe.op for probe in left] == ["stablehlo.dot_general", "stablehlo.multiply"]
        assert [value.owner.name for value in left.values()] == [probe.op for probe in left]


# ---- reports


def test_errors_of_a_program_that_casts_itself() -> None:
    def program(x: Any, w: Any) -> Any:
        h = x.astype(jnp.bfloat16) @ w.astype(jnp.bfloat16)
        return (-jnp.tanh(h).T).astype(jnp.float32)

    x, w = normal(8, 16), normal(16, 16)
    found = report(program, x, w, pipeline="")
    product, tanh, negate = (row(found, name) for name in ("dot_general", "tanh", "negate"))
    x64, w64 = x.astype(np.float64), w.astype(np.float64)
    h = rounded((rounded(x) @ rounded(w)).astype(np.float32))
    assert product.error == product.own_error == pytest.approx(relative(h, x64 @ w64), rel=1e-2)
    scale = np.linalg.norm(np.tanh(x64 @ w64))
    assert tanh.own_error == pytest.approx(np.linalg.norm(rounded(np.tanh(h)) - np.tanh(h)) / scale, rel=0.1)
    assert tanh.error > 2 * tanh.own_error
    assert negate.own_error == 0.0 and negate.error == pytest.approx(tanh.error)
    assert {each.dtype for each in found.rows} == {"bfloat16"}
    assert product.file == __file__ and tanh.line == product.line + 1
    (result,) = found.results
    assert (result.op, result.dtype, result.error) == ("result 0", "float32", negate.error)
    assert [each.error for each in found.rows] == sorted((each.error for each in found.rows), reverse=True)
    assert found.lost == found.unseen == 0


def test_roundings_happen() -> None:
    """XLA may leave out a convert to bfloat16 and back; what reads the value then had another operand."""
    found = report(lambda x: -jnp.tanh(x), normal(8, 16), pipeline="narrow", effects=False)
    assert row(found, "negate").own_error == 0.0
    assert row(found, "negate").error == row(found, "tanh").error > BF16 / 8


def test_a_value_of_a_loop_is_all_of_its_iterations() -> None:
    w = normal(4, 4)

    def step(carry: Any, scale: Any) -> Any:
        def inner(c: Any, _: None) -> Any:
            return jnp.tanh(c @ w.astype(jnp.bfloat16)), None

        carry = jax.lax.scan(inner, carry, None, length=2)[0]
        return carry * scale, carry.sum()

    def program(x: Any, unrolled: bool) -> Any:
        x, scales = x.astype(jnp.bfloat16), jnp.arange(1.0, 4.0).astype(jnp.bfloat16)
        return jax.lax.scan(step, x, scales, unroll=3)[0] if unrolled else jax.lax.scan(step, x, scales)[0]

    looped = report(lambda x: program(x, False), normal(4, 4), pipeline="")
    straight = report(lambda x: program(x, True), normal(4, 4), pipeline="", effects=False)
    tanh = row(looped, "tanh")
    assert (tanh.shape, tanh.count) == ((3, 2, 4, 4), 96)
    each = [other for other in straight.rows if other.op == "stablehlo.tanh"]
    assert [other.shape for other in each] == [(2, 4, 4)] * 3
    assert min(other.error for other in each) < tanh.error < max(other.error for other in each)
    assert min(other.own_error for other in each) < tanh.own_error < max(other.own_error for other in each)
    assert tanh.own_error < BF16
    assert looped.error == pytest.approx(straight.error)
    product = row(looped, "dot_general")
    products = [other.own_error for other in straight.rows if other.op == "stablehlo.dot_general"]
    assert min(products) < product.own_error < max(products)
    assert 0 < product.own_error < product.error < BF16
    (line,) = {line.line for line in looped.lines if "stablehlo.tanh" in line.ops}
    effect = next(other.effect for other in looped.lines if other.line == line)
    assert effect == pytest.approx(looped.error, rel=0.7)


def test_branches_and_loops_of_unknown_length_are_one_operation() -> None:
    def program(x: Any) -> Any:
        y = jax.lax.while_loop(lambda c: c.sum() < 100.0, lambda c: jnp.exp(c) * 2, x)
        return jax.lax.cond(y.sum() > 0, jnp.sin, jnp.cos, y)

    found = report(program, np.ones(3, np.float32), pipeline="", effects=False)
    assert found.unseen == 5  # the sum, exp and * 2, sin and cos
    assert {"stablehlo.while", "stablehlo.case"} <= {each.op for each in found.rows}
    assert "not looked at" in found.text()


def test_functions_are_looked_into_and_composites_are_not() -> None:
    inner = jax.jit(lambda x: jnp.tanh(x) + x)
    module = zenith.trace(lambda x: jax.nn.softmax(inner(x)), normal(4, 8)).run("prepare,raise-softmax")
    found = report(module, normal(4, 8), pipeline="narrow")
    assert {each.op for each in found.rows} == {"stablehlo.tanh", "stablehlo.add", "zenith.softmax"}
    softmax = next(each for each in found.rows if each.op == "zenith.softmax")
    # The stand-in rounds what is inside.
    assert softmax.dtype == "float32" and softmax.own_error > BF16 / 8


def test_watching_does_not_change_what_passes_do() -> None:
    module = zenith.trace(lambda x: jax.nn.softmax(x * 2), normal(4, 8))
    found = report(module, pipeline="prepare,raise-softmax", effects=False)
    assert found.inputs == "random:0"
    assert found.lost > 0  # what is now inside of the composite
    assert row(found, "divide").error < 1e-6
    assert found.suggested() == ()


def test_overflow_and_underflow() -> None:
    def program(x: Any) -> Any:
        large = jnp.exp(x)
        return jnp.log(large), large * 1e-6

    x = np.array([0.0, 5.0, 12.0, 13.0], np.float32)
    found = report(program, x, pipeline="narrow{compute=f16}")
    exponential, product = row(found, "exponential"), row(found, "multiply")
    assert (exponential.dtype, exponential.overflow, exponential.own_overflow) == ("float16", 2, 2)
    assert (product.overflow, product.own_overflow, product.underflow) == (2, 0, 1)
    assert found.overflow == {"float16": 2}
    assert found.underflow == {"float16": 1}
    assert found.lines[0].overflow == 2 and found.suggested()[0] == found.lines[0].pattern
    data = json.loads(found.to_json())
    assert data["underflow"] == {"float16": 1} and data["suggested"] == list(found.suggested())


def angles(x: Any, w: Any) -> tuple[Any, Any]:
    h = jnp.tanh(x @ w)
    phase = h * 200.0
    return jnp.cos(phase), h


def test_denying_what_is_suggested_helps() -> None:
    arguments = normal(8, 16), normal(16, 16)
    before = report(angles, *arguments, pipeline="narrow")
    suggested = before.suggested(factor=4.0)
    assert 0 < len(suggested) < len(before.lines)
    after = report(angles, *arguments, pipeline=f"narrow{{deny={','.join(suggested)}}}", effects=False)
    assert after.error < before.error / 2
    others = [line.pattern for line in before.lines if line.pattern not in suggested]
    useless = report(angles, *arguments, pipeline=f"narrow{{deny={','.join(others)}}}", effects=False)
    assert after.error < useless.error
    least = before.lines[-1]
    assert before.lines[0].effect > 4 * least.effect


def test_what_is_zero_in_exact_arithmetic_does_not_count() -> None:
    def program(x: Any) -> Any:
        y = jnp.tanh(x)
        return (y - y.mean()).sum(), y

    found = report(program, normal(32), pipeline="narrow")
    assert found.results[0].zero and not found.results[1].zero
    assert found.rows[-1].zero and found.rows[-1].op == "stablehlo.reduce"
    assert found.error == found.results[1].error < BF16
    assert all(line.effect < 2 * BF16 for line in found.lines)


def test_parts_give_the_same_report() -> None:
    arguments = normal(8, 16), normal(16, 16)
    doing: list[str] = []
    whole = report(angles, *arguments, pipeline="narrow")
    parts = report(angles, *arguments, pipeline="narrow", chunk_bytes=1500, progress=doing.append)
    assert "running the program, part 4 of 4" in doing
    assert (parts.rows, parts.results) == (whole.rows, whole.results)
    # The errors of product and tanh, of one line in two parts, are added as if they were independent.
    effects = {line.pattern: line.effect for line in whole.lines}
    assert {line.pattern: line.effect for line in parts.lines} == pytest.approx(effects, rel=0.5)


def test_suggestions() -> None:
    def line(name: str, effect: float, overflow: int = 0, own: float = BF16) -> Line:
        return Line(name, ("stablehlo.add",), "a.py", 1, effect, own, overflow)

    lines = line("o", 0.0, 3), line("f32", 0.9, own=1e-6), line("a", 0.3), line("b", 0.1), line("c", 0.1)
    found = PrecisionReport("", "", (), (), lines)
    assert found.suggested() == ("o", "a")
    assert found.suggested(factor=100.0) == ("o", "a", "b", "c")
    assert found.suggested(limit=1) == ("o",)
    assert PrecisionReport("", "", (), (), (lines[1],)).suggested() == ()


def test_clear_errors() -> None:
    with pytest.raises(ZenithError, match="main takes 2 arrays, got 1"):
        report(zenith.trace(angles, normal(8, 16), normal(16, 16)), normal(8, 16), pipeline="")
    with pytest.raises(ZenithError, match="float32"):
        report(zenith.trace(jnp.sin, normal(2)), np.ones(2), pipeline="")
    with pytest.raises(ZenithError, match="nothing-such"):
        report(jnp.sin, normal(2), pipeline="nothing-such")
    with pytest.raises(PassError, match="f99"):
        report(jnp.sin, normal(2), pipeline="narrow{compute=f99}")


def test_a_program_without_floats() -> None:
    found = report(lambda x: x + 1, np.arange(3), pipeline="")
    assert found.rows == found.results == () and found.error == 0.0


@pytest.mark.once
def test_patterns_name_lines_whatever_the_file_is_called() -> None:
    assert pattern_of("stablehlo.add", Frame("/a/model.py", 12, 3)) == "model.py:12"
    odd = pattern_of("stablehlo.add", Frame('/a/my, [odd] {"file}.py', 12, 3))
    assert fnmatch.fnmatchcase('my, [odd] {"file}.py:12', odd) and not set(odd) & set(' ,[]{}"')
    assert pattern_of("stablehlo.add", UNKNOWN) == "stablehlo.add"


# ---- the command line


def test_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file, inputs = tmp_path / "in.mlir", tmp_path / "inputs.npz"
    zenith.trace(angles, normal(8, 16), normal(16, 16)).save(file)
    np.savez(inputs, normal(8, 16), normal(16, 16))
    assert main([str(file), "--pass-pipeline=narrow", f"--inputs={inputs}", "--top=2"]) == 0
    shown = capsys.readouterr().out
    assert "2 others of smaller error" in shown and "to deny (*): " in shown and "inputs given" in shown
    assert main([str(file), "--pass-pipeline=narrow", "--format=json", "--seed=3", "--no-effects"]) == 0
    data = json.loads(capsys.readouterr().out)
    assert data["inputs"] == "random:3" and len(data["rows"]) == 4 and data["lines"][0]["effect"] > 0
    assert main([str(file), "--pass-pipeline=narrow", f"--inputs={file}"]) == 1
    assert "cannot be read" in capsys.readouterr().err


@pytest.mark.once
def test_help_is_quick() -> None:
    program = "import sys, zenith_mlir.tools.zenith_precision as t\ntry: t.main(['--help'])\nexcept SystemExit: pass\n"
    program += "assert not {'jax', 'jaxlib', 'numpy', 'rich'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", program], check=True, stdout=subprocess.DEVNULL)


# ---- with the pass that it is for


@pytest.mark.parametrize(("compute", "dtype"), [("bf16", "bfloat16"), ("f16", "float16")])
def test_denying_in_cast_precision_what_is_suggested_helps(compute: str, dtype: str) -> None:
    def program(x: Any, w: Any, shift: Any) -> Any:
        h = jnp.tanh(x @ w)
        h = h + shift  # where most digits go
        h = h - shift
        return h @ w

    arguments = normal(8, 16), normal(16, 16), np.full(16, 100.0, np.float32)
    before = report(program, *arguments, pipeline=f"cast-precision{{compute={compute}}}")
    assert before.lost == before.unseen == 0
    assert [each.dtype for each in before.rows if each.op in ("stablehlo.add", "stablehlo.subtract")] == [dtype] * 2
    suggested = before.suggested()
    assert suggested and len(suggested) < len(before.lines)
    denying = f"cast-precision{{compute={compute} deny={','.join(suggested)}}}"
    after = report(program, *arguments, pipeline=denying, effects=False)
    assert after.error < before.error / 2


def test_the_pass_says_it_in_remarks() -> None:
    def fn(x: jax.Array, w: jax.Array) -> jax.Array:
        y = jnp.tanh(x @ w)
        return (y * 3.0) @ w

    module = zenith.trace(fn, np.ones((8, 16), np.float32), np.ones((16, 16), np.float32))
    after = module.run("prepare,precision-report{compute=f16 top=3}")
    assert after.text() == module.run("prepare").text()
    said = [r for r in after.remarks if r.pass_name == "precision-report"]
    values = [r for r in said if "error" in r.args]
    assert len(values) == 3 and all(r.file == __file__ and r.kind == "analysis" for r in values)
    assert [r.args["error"] for r in values] == sorted((r.args["error"] for r in values), reverse=True)
    assert any(1e-5 < r.args["own_error"] < 1e-3 for r in values)
    (suggestion,) = [r.suggest for r in said if r.suggest][:1]
    denied = suggestion.split("deny=")[1].split("}")[0]
    left = module.run(f'prepare,precision-report{{compute=f16 deny="{denied}"}}')
    worst = [max(r.args["error"] for r in m.remarks if "error" in r.args) for m in (after, left)]
    assert worst[1] < worst[0]
