"""Modules of real libraries: they pass through our pipelines whole, and nothing is fused where no attention
is.

The modules lie in `$ZENITH_CORPUS`, or in `shared/corpus` beside the checkout; without them these tests are
skipped.
"""

from __future__ import annotations

import functools
import json
import os
from pathlib import Path
from typing import Any

import pytest

from zenith_mlir.ir.executable import compile_module
from zenith_mlir.ir.float64 import to_float64
from zenith_mlir.module import Module, load

CORPUS = Path(os.environ.get("ZENITH_CORPUS") or Path(__file__).parents[2] / ".." / "shared" / "corpus")
FILES = sorted(CORPUS.glob("*.mlir"))
PIPELINES = ["default", "fuse-attention{min-seq=0}"]

pytestmark = pytest.mark.skipif(not FILES, reason="no corpus: set ZENITH_CORPUS to a folder of .mlir files")
each_file = pytest.mark.parametrize("file", FILES or [Path("absent")], ids=lambda file: file.stem)


@functools.cache
def manifest() -> dict[str, dict[str, Any]]:
    return {entry["file"]: entry for entry in json.loads((CORPUS / "manifest.json").read_text())}


def raised_sites(module: Module) -> int:
    return sum(1 for remark in module.remarks if remark.kind == "passed" and remark.pass_name == "raise-attention")


@each_file
@pytest.mark.parametrize("pipeline", PIPELINES)
def test_pipeline(file: Path, pipeline: str) -> None:
    module = load(file)
    rewritten = module.run(pipeline)
    assert rewritten.operation.verify()
    assert signature(Module.parse(rewritten.text())) == signature(module)
    if manifest()[file.name]["ground_truth"]["attention"] == 0:
        assert raised_sites(rewritten) == 0


def signature(module: Module) -> list[tuple[Any, Any]]:
    assert module.operation.verify()
    return [(spec.shape, spec.dtype) for spec in module.input_specs]


@each_file
def test_float64(file: Path) -> None:
    judge = to_float64(load(file))
    assert judge.operation.verify()
    compile_module(judge, compiler_options={"xla_backend_optimization_level": 0})
