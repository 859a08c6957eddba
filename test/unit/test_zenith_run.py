"""zenith-run: what it prints, its exit status, its errors."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from jaxlib.mlir import ir

from zenith_mlir.context import PassContext
from zenith_mlir.ir.facts import walk_named
from zenith_mlir.module import Module
from zenith_mlir.registry import Pass, register
from zenith_mlir.tools.zenith_run import main

pytestmark = pytest.mark.once


@register("test-wrong-tanh")
@dataclass(frozen=True)
class WrongTanh(Pass):
    """Replaces tanh(x) by x: a rewrite that is wrong."""

    def run(self, module: Module, ctx: PassContext) -> None:
        with module.context, ir.Location.unknown():
            for op in walk_named(module.operation, "stablehlo.tanh"):
                op.results[0].replace_all_uses_with(op.operands[0])


def attention(q: Any, k: Any, v: Any, mask: Any) -> Any:
    logits = jnp.where(mask, jnp.einsum("btd,bsd->bts", q, k) * 0.25, -1e9)
    return jnp.einsum("bts,bsd->btd", jax.nn.softmax(logits, axis=-1), v)


def layer(x: Any, table: Any, ids: Any) -> Any:
    return jnp.tanh(x + table[ids]), ids + 1


@pytest.fixture
def model(tmp_path: Path) -> str:
    arrays = (np.zeros((2, 5, 4), np.float32), np.zeros((7, 4), np.float32), np.zeros((2, 5), np.int32))
    return write(tmp_path / "layer.mlir", jax.jit(layer).lower(*arrays).as_text())


@pytest.fixture
def attention_model(tmp_path: Path) -> str:
    x, mask = np.zeros((2, 32, 16), np.float32), np.zeros((2, 32, 32), bool)
    return write(tmp_path / "attention.mlir", jax.jit(attention).lower(x, x, x, mask).as_text())


def write(path: Path, text: str) -> str:
    path.write_text(text)
    return str(path)


def test_run_prints_each_result(model: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([model]) == 0
    out = capsys.readouterr().out
    assert "float32[2,5,4]" in out
    assert "int32[2,5]" in out
    assert "arguments random:0" in out


def test_run_is_reproducible(model: str, capsys: pytest.CaptureFixture[str]) -> None:
    sums = []
    for seed in ("random:3", "random:3", "random:4"):
        assert main([model, "--args", seed, "--json"]) == 0
        sums.append([result["sha256"] for result in json.loads(capsys.readouterr().out)["results"]])
    assert sums[0] == sums[1] != sums[2]


def test_arguments_from_a_file(model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    x, table = np.ones((2, 5, 4), np.float32), np.zeros((7, 4), np.float32)
    np.savez(tmp_path / "args.npz", x, table, np.full((2, 5), 6, np.int32))
    assert main([model, "--args", str(tmp_path / "args.npz"), "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["arguments"] == "given"
    assert float(report["results"][0]["mean"]) == pytest.approx(np.tanh(1.0), rel=1e-4)
    assert float(report["results"][1]["mean"]) == 7


def test_bfloat16_from_a_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """NumPy stores bfloat16 as raw bytes."""
    x = np.array([1.5, -2.5], ml_dtypes.bfloat16)
    file = write(tmp_path / "double.mlir", jax.jit(lambda x: x + x).lower(x).as_text())
    np.savez(tmp_path / "args.npz", x)
    assert main([file, "--args", str(tmp_path / "args.npz"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["results"][0]["mean"] == "4"


def test_compare(attention_model: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([attention_model, "--compare", "--pipeline", "fuse-attention{min-seq=0}", "--repeat", "2"]) == 0
    out = capsys.readouterr().out
    for line in (
        "module: sound on 1 input set",
        "raised    1 zenith.attention",
        "time      before",
        "temporary before",
    ):
        assert line in out


def test_compare_as_json(attention_model: str, capsys: pytest.CaptureFixture[str]) -> None:
    pipeline = "fuse-attention{min-seq=0}"
    assert main([attention_model, "--compare", "--json", "--pipeline", pipeline, "--repeat", "2"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["sound"] is True
    assert report["raised"] == {"zenith.attention": 1}
    assert report["before"]["minimum"] > 0
    assert report["cases"][0]["error_original"] < 1e-5
    assert report["cases"][0]["judged"] == 1.0


def test_certify(attention_model: str, capsys: pytest.CaptureFixture[str]) -> None:
    pipeline = "fuse-attention{min-seq=0}"
    assert main([attention_model, "--certify", "--json", "--pipeline", pipeline, "--repeat", "1"]) == 0
    (certificate,) = json.loads(capsys.readouterr().out)["certificates"]
    assert certificate["op"] == "zenith.attention"
    assert certificate["sound"] is True
    assert len(certificate["cases"]) > 20


def test_unsound_result_fails_and_is_named(model: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([model, "--compare", "--pipeline", "test-wrong-tanh"]) == 1
    captured = capsys.readouterr()
    assert "UNSOUND" in captured.out
    assert "result 0: whole error" in captured.err or "result 0: row error" in captured.err


def test_fast_reports_without_failing(model: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([model, "--compare", "--pipeline", "test-wrong-tanh", "--numerics", "fast"]) == 0
    assert "UNSOUND" in capsys.readouterr().out


def test_masks_that_leave_nothing_to_judge_are_drawn_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def model(x: Any, mask: Any) -> Any:
        return jnp.where(mask.all(), x, jnp.nan)

    text = jax.jit(model).lower(np.zeros(4, np.float32), np.zeros(50, bool)).as_text()
    assert main([write(tmp_path / "nan.mlir", text), "--compare", "--pipeline", ""]) == 0
    out = capsys.readouterr().out
    assert "not judged" not in out


def test_nothing_to_judge_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = jax.jit(lambda x: x * jnp.nan).lower(np.zeros(4, np.float32)).as_text()
    assert main([write(tmp_path / "nan.mlir", text), "--compare", "--pipeline", ""]) == 0
    assert "nothing to judge, since no number is finite: result 0" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["{missing}"], "missing.mlir"),
        (["{broken}"], "broken.mlir"),
        (["{model}", "--pipeline", "no-such-pass"], "unknown pass no-such-pass"),
        (
            ["{model}", "--args", "zeros"],
            "--args is random, random:SEED or a file ending in .npz, not 'zeros'",
        ),
        (["{model}", "--args", "{missing}.npz"], "missing.mlir.npz"),
        (["{model}", "--args", "{short}"], "holds 1 arrays, main takes 3"),
        (["{model}", "--args", "{wrong}"], "argument 0"),
        (["{model}", "--args", "{text}"], "cannot be read as arrays written by numpy.savez"),
        (["{model}", "--compare", "--target", "rocm"], "unknown target 'rocm'"),
    ],
)
def test_errors_are_one_line(
    arguments: list[str], message: str, model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files = {
        "model": model,
        "missing": str(tmp_path / "missing.mlir"),
        "broken": write(tmp_path / "broken.mlir", "func.func @main( {"),
        "short": str(tmp_path / "short.npz"),
        "wrong": str(tmp_path / "wrong.npz"),
        "text": write(tmp_path / "text.npz", "not an archive"),
    }
    np.savez(files["short"], np.zeros(3))
    np.savez(files["wrong"], np.zeros(3), np.zeros((7, 4), np.float32), np.zeros((2, 5), np.int32))
    assert main([argument.format(**files) for argument in arguments]) == 1
    captured = capsys.readouterr()
    assert captured.out == ""
    assert message in captured.err
    assert captured.err.startswith("zenith-run: error: ")
    assert captured.err.count("\n") == 1


def test_help_imports_no_jax() -> None:
    program = "import sys, zenith_mlir.tools.zenith_run as t\ntry: t.main(['--help'])\nexcept SystemExit: pass\n"
    program += "assert not {'jax', 'jaxlib', 'rich', 'numpy'} & set(sys.modules), sorted(sys.modules)"
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    assert "--compare" in result.stdout
