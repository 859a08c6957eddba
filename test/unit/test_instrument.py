"""What is watched while a pipeline runs."""

import io
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import pytest

import zenith_mlir as zenith
from zenith_mlir import Pass, PassContext, register
from zenith_mlir.errors import PassError, PipelineError
from zenith_mlir.instrument import ALL, Instrument, Reproducer, running_reproducer
from zenith_mlir.pipeline import Pipeline
from zenith_mlir.verify_diagnostics import Diagnostic, Expectation, expectations, mismatches

TEXT = """func.func @main(%x: tensor<4xf32>) -> tensor<4xf32> {
  %0 = stablehlo.sine %x : tensor<4xf32>
  %1 = stablehlo.sine %x : tensor<4xf32>
  %2 = stablehlo.add %0, %1 : tensor<4xf32>
  return %2 : tensor<4xf32>
}
"""


@register("test-count")
@dataclass(frozen=True)
class Count(Pass):
    """Count two things."""

    def run(self, module: zenith.Module, ctx: PassContext) -> None:
        ctx.count("things", 2)


@register("test-invalid")
@dataclass(frozen=True)
class Invalid(Pass):
    """Make the module invalid."""

    def run(self, module: zenith.Module, ctx: PassContext) -> None:
        block = module.body.operations[0].body.blocks[0]
        block.operations[len(block.operations) - 1].operation.erase()


def run(pipeline: str, **options: object) -> str:
    stream = io.StringIO()
    zenith.load(TEXT).run(pipeline, target="none", stream=stream, **options)
    return stream.getvalue()


def test_printing() -> None:
    assert run("cse,canonicalize") == ""
    assert run("cse,canonicalize", print_before=ALL).count("IR Dump Before") == 2
    assert run("cse,canonicalize", print_before={"canonicalize"}).count("IR Dump Before canonicalize") == 1
    assert run("cse,canonicalize", print_before={"cse"}).count("stablehlo.sine") == 2
    assert run("cse,canonicalize", print_after={"cse"}).count("stablehlo.sine") == 1
    assert "After cse" in run("cse,canonicalize", print_after_change=True)
    assert "canonicalize" not in run("cse,canonicalize", print_after_change=True)
    with pytest.raises(PipelineError, match="did you mean cse"):
        run("cse", print_after={"cze"})


def test_diff() -> None:
    diff = run("canonicalize,cse", print_diff=True).splitlines()
    assert diff[:2] == ["--- before cse", "+++ after cse"]
    assert sum(line.startswith("-  ") for line in diff) == 3
    assert sum(line.startswith("+  ") for line in diff) == 2


def test_statistics_belong_to_the_pass_that_counted() -> None:
    watch = Instrument(statistics=True, stream=io.StringIO())
    module = zenith.load(TEXT)
    Pipeline.parse("test-count,cse,test-count").run(module, PassContext(), watch)
    gained = [(name, +counts) for name, counts in watch.counts]
    assert gained == [
        ("test-count", Counter(things=2)),
        ("cse", Counter()),
        ("test-count", Counter(things=2)),
    ]
    assert watch.counts[1][1]["operations"] == -1
    assert "things" in run("test-count", statistics=True)


def test_timing_has_a_row_for_every_pass() -> None:
    table = run("cse,canonicalize", timing=True)
    assert [word for word in table.split() if word in ("cse", "canonicalize", "total")] == [
        "cse",
        "canonicalize",
        "total",
    ]


def test_verify_each() -> None:
    with pytest.raises(PassError, match="pass test-invalid failed"):
        run("test-invalid,cse")
    assert run("test-invalid", verify_each=False) == ""


def test_reproducer(tmp_path: Path) -> None:
    path = tmp_path / "crash.mlir"
    run("cse", crash_reproducer=str(path))
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(PassError):
        run("cse,test-invalid", crash_reproducer=str(path))
    assert list(tmp_path.iterdir()) == [path]
    assert running_reproducer(str(path)) != str(path)
    text = path.read_text()
    assert Reproducer.read(text, "crash.mlir") == Reproducer("test-invalid", "none", "sound")
    assert zenith.load(path).text().count("stablehlo.sine") == 1
    with pytest.raises(zenith.ZenithError, match=r"in\.mlir:1:1: no reproducer"):
        Reproducer.read(TEXT, "in.mlir")


def test_expectations_are_found() -> None:
    text = "\n".join(
        [
            "// expected-remark@+1 {{one}}",
            "op  // expected-error {{two}} expected-remark@-1 {{three}}",
            "// expected-remark@below {{four}}",
            "// expected-remark@below {{five}}",
            "op",
            "// expected-remark@above {{six}}",
            "// expected-remark@unknown {{seven}}",
        ]
    )
    assert [(e.kind, e.line, e.text) for e in expectations(text, "f", first_line=11)] == [
        ("remark", 12, "one"),
        ("error", 12, "two"),
        ("remark", 11, "three"),
        ("remark", 15, "four"),
        ("remark", 15, "five"),
        ("remark", 15, "six"),
        ("remark", 0, "seven"),
    ]


@pytest.mark.parametrize(
    "comment", ["// expected-remarks {{x}}", "// expected-remark@2 {{x}}", "// expected-error {x}"]
)
def test_misspelled_expectations_are_errors(comment: str) -> None:
    with pytest.raises(zenith.ZenithError, match="f:1:1: an expectation is written"):
        expectations(comment, "f")


def test_mismatches_go_both_ways() -> None:
    expected = [
        Expectation("remark", 1, 2, "why"),
        Expectation("error", 5, 6, "bad"),
        Expectation("remark", 8, 0, "?"),
    ]
    given = [
        Diagnostic("remark", "f", 2, "[missed] p: why not"),
        Diagnostic("remark", "f", 2, "[missed] p: why not"),
        Diagnostic("remark", "other.py", 9, "what?"),
    ]
    assert mismatches(expected, given, "f") == [
        "f:2: unexpected remark: [missed] p: why not",
        'f:5: expected error "bad" was not produced at line 6',
    ]
    assert mismatches([], [], "f") == []
