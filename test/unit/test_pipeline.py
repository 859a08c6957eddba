"""Textual pipelines: parsing, printing, running."""

import subprocess
import sys
from dataclasses import dataclass

import pytest
from jaxlib.mlir import ir

import zenith_mlir as zenith
from zenith_mlir import Pass, PassContext, native, option, register
from zenith_mlir.errors import OptionError, PassError, PipelineError
from zenith_mlir.pipeline import PIPELINES, Pipeline

TEXT = """
func.func @main(%x: tensor<4xf32>) -> tensor<4xf32> {
  %0 = stablehlo.sine %x : tensor<4xf32>
  %1 = stablehlo.sine %x : tensor<4xf32>
  %2 = stablehlo.add %0, %1 : tensor<4xf32>
  return %2 : tensor<4xf32>
}
"""


def module() -> zenith.Module:
    return zenith.Module.parse(TEXT, "in.mlir")


@register("test-rename")
@dataclass(frozen=True)
class Rename(Pass):
    """Rename functions."""

    to: str = option("renamed", "the new name")

    def run(self, module: zenith.Module, ctx: PassContext) -> None:
        for op in module.body.operations:
            op.attributes["sym_name"] = ir.StringAttr.get(self.to)
            ctx.passed(op, "zenith.test")


@register("test-break")
@dataclass(frozen=True)
class Break(Pass):
    """Fail in one of several ways."""

    how: str = option("zenith", "how")

    def run(self, module: zenith.Module, ctx: PassContext) -> None:
        function = module.body.operations[0]
        function.attributes["sym_name"] = ir.StringAttr.get("half_done")
        if self.how == "zenith":
            raise zenith.ZenithError("model.py:3:4: expected this, got that; do this")
        if self.how == "bug":
            raise KeyError("oops")
        if self.how == "invalid":
            function.attributes["function_type"] = ir.TypeAttr.get(ir.FunctionType.get([], []))
        if self.how == "nested":
            module.run("test-break")


@pytest.mark.parametrize(
    ("text", "canonical"),
    [
        ("", ""),
        ("  ", ""),
        ("cse", "cse"),
        (" cse , canonicalize ", "cse,canonicalize"),
        ("builtin.module(cse)", "cse"),
        ("builtin.module()", ""),
        (
            "func.func( cse , canonicalize{ max-iterations=3 } )",
            "func.func(cse,canonicalize{max-iterations=3})",
        ),
        ("prepare", "inline-calls,simplify"),
        ("builtin.module(prepare,func.func(cse))", "inline-calls,simplify,func.func(cse)"),
        ("test-rename", "test-rename"),
        ("test-rename{to=renamed}", "test-rename"),
        ("test-rename{to='a b'},cse", 'test-rename{to="a b"},cse'),
        ("any(cse)", "any(cse)"),
    ],
)
def test_canonical_text(text: str, canonical: str) -> None:
    pipeline = Pipeline.parse(text)
    assert str(pipeline) == canonical
    assert Pipeline.parse(canonical) == pipeline
    assert Pipeline.parse(pipeline) is pipeline
    assert hash(Pipeline.parse(canonical)) == hash(pipeline)


def test_named_pipelines_parse() -> None:
    for name, text in PIPELINES.items():
        assert str(Pipeline.parse(name)) == str(Pipeline.parse(text))


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("cse,", "column 5"),
        ("cse)", "column 4"),
        ("(cse", "the name of a pass"),
        ("cse canonicalize", "',' or the end"),
        ("func.func(cse", r"'\)' is expected"),
        ("canonicalize{max-iterations", "option=value"),
        ("canonicalize{max-iterations=1 max-iterations=2}", "given twice"),
        ("prepare{a=1}", "takes no options"),
        ("cs", "unknown pass cs .*cse"),
        ("fuse-atention", "did you mean fuse-attention"),
        ("func.func(test-rename)", r"outside of func.func\(...\)"),
        ("func.func(nope)", "unknown pass nope"),
        ("func.func(prepare)", "outside of func.func"),
    ],
)
def test_bad_text(text: str, says: str) -> None:
    with pytest.raises(PipelineError, match=says):
        Pipeline.parse(text)


@pytest.mark.parametrize("text", ["canonicalize{max-iterations=many}", "canonicalize{colour=red}"])
def test_bad_native_options_list_the_valid_ones(text: str, capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(OptionError, match=r"canonicalize: .*max-iterations=10"):
        Pipeline.parse(text)
    assert capfd.readouterr() == ("", "")


def test_a_pipeline_that_contains_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("zenith_mlir.pipeline.PIPELINES", {"snake": "cse,tail", "tail": "snake"})
    with pytest.raises(PipelineError, match=r"snake > tail > snake"):
        Pipeline.parse("snake")


def test_every_native_pass_listed_exists() -> None:
    for name in native.NATIVE_PASSES:
        assert native.make(name, name).name == name
        assert native.defaults(name) is not None


def test_native_passes_on_functions_are_nested() -> None:
    nest = "func.func(cse,canonicalize{top-down=false})"
    pipeline = Pipeline.parse(f"chlo-legalize-to-stablehlo,func.func(cse),{nest}")
    assert str(pipeline) == f"func.func(chlo-legalize-to-stablehlo),func.func(cse),{nest}"
    assert Pipeline.parse(str(pipeline)) == pipeline
    names = [stage.name for stage in pipeline.stages]
    assert names == ["chlo-legalize-to-stablehlo", "cse", "func.func(cse,canonicalize)"]


def test_ours_and_native_ones_run_side_by_side() -> None:
    before = module()
    after = before.run("cse,test-rename{to=f},canonicalize")
    assert before.text().count("stablehlo.sine") == 2
    assert after.text().count("stablehlo.sine") == 1
    assert "@f(" in after.text()
    assert [remark.pass_name for remark in after.remarks] == ["test-rename"]


@pytest.mark.parametrize(
    ("how", "says"),
    [
        ("zenith", "pass test-break failed: model.py:3:4: expected this, got that; do this$"),
        ("bug", r"pass test-break failed: KeyError: 'oops' \(.*test_pipeline.py:\d+\)"),
        ("invalid", r"pass test-break failed: in.mlir:2:\d+: "),
        ("nested", "model.py:3:4"),
    ],
)
def test_a_failing_pass_leaves_the_module_alone(how: str, says: str) -> None:
    before = module()
    text = before.text()
    with pytest.raises(PassError, match=says) as caught:
        before.run(f"cse,test-break{{how={how}}}")
    assert caught.value.pass_name == "test-break"
    assert before.text() == text
    assert (caught.value.cause is None) == (how == "invalid")


def test_a_failing_native_pass() -> None:
    erf = "  %0 = chlo.erf %x : tensor<4xf32> -> tensor<4xf32>\n"
    bad = "func.func @main(%x: tensor<4xf32>) -> tensor<4xf32> {\n" + erf
    with pytest.raises(PassError, match=r"pass stablehlo-legalize-to-vhlo failed: bad\.mlir:[23]:\d: "):
        zenith.Module.parse(bad + "  return %0 : tensor<4xf32>\n}", "bad.mlir").run("stablehlo-legalize-to-vhlo")


IMPORT_ORDERS = [
    "import zenith_mlir as z; z.pipeline('prepare'); from zenith_mlir.pipeline import Pipeline",
    "from zenith_mlir.pipeline import Pipeline; import zenith_mlir as z; z.pipeline('prepare')",
    "from zenith_mlir import pipeline; pipeline('prepare'); from zenith_mlir.pipeline import Pipeline",
    "import zenith_mlir.hook, zenith_mlir as z; z.pipeline('prepare'); from zenith_mlir.pipeline import Pipeline",
]


@pytest.mark.parametrize("code", IMPORT_ORDERS)
def test_pipeline_is_a_module_and_a_context_manager(code: str) -> None:
    code += "; assert str(Pipeline.parse('cse')) == 'cse'\nwith z.pipeline('prepare'): pass" if "as z" in code else ""
    subprocess.run([sys.executable, "-c", code], check=True)


def test_importing_the_package_imports_neither_jax_nor_jaxlib() -> None:
    code = "import sys, zenith_mlir, zenith_mlir.tools.zenith_opt; "
    code += "assert not {'jax', 'jaxlib', 'rich'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_public_names() -> None:
    missing = {
        "checkpoint",
        "memory",
        "onnx",
        "ops",
        "precision",
        "remat",
        "report",
    }  # other rooms of the house
    for name in set(zenith.__all__) - missing:
        assert getattr(zenith, name) is not None
        assert name in dir(zenith)
    with pytest.raises(AttributeError, match="nothing"):
        zenith.nothing  # noqa: B018
