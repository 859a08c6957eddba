"""zenith-report: what it finds out and how the page shows it. The command line is tested in test/lit/zenith-report."""

import json
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import pytest

import zenith_mlir as zenith
from zenith_mlir import optional
from zenith_mlir.errors import ZenithError
from zenith_mlir.pipeline import Pipeline
from zenith_mlir.remarks import Remark
from zenith_mlir.report.findings import Choice, Findings
from zenith_mlir.report.page import SHOWN_CHOICES, render
from zenith_mlir.report.run import run
from zenith_mlir.target import Target

CPU = Target.parse("cpu")


def program(x: Any) -> Any:
    return jax.nn.softmax(x @ x) @ x


def found(pipeline: str = "prepare,raise-softmax", **options: Any) -> Findings:
    module = zenith.trace(program, jax.ShapeDtypeStruct((64, 64), jnp.float32))
    return run(module, "model.mlir", Pipeline.parse(pipeline), CPU, **options)


def choice(value: str, decided: str, size: int, **more: Any) -> Remark:
    args = {"value": value, "choice": decided, "bytes": size, **more}
    return Remark("analysis", "insert-remat", file="model.py", line=7, args=args)


@pytest.fixture(scope="module")
def findings() -> Findings:
    return found()


def test_findings(findings: Findings) -> None:
    assert [run.name for run in findings.passes] == ["inline-calls", "simplify", "raise-softmax"]
    assert findings.operations[1] - findings.operations[0] == sum(run.operations for run in findings.passes)
    assert [remark.op for remark in findings.remarks] == ["zenith.softmax"]
    assert findings.before is not None and findings.before.arguments == 64 * 64 * 4
    data = json.loads(findings.to_json())
    assert data["memory"]["before"]["exact"] is False
    assert data["remarks"][0]["pass"] == "raise-softmax"
    assert data["operations"]["after"] == findings.operations[1]


def test_compiled_findings_are_those_of_xla() -> None:
    module = zenith.trace(program, jax.ShapeDtypeStruct((64, 64), jnp.float32))
    expected = module.compile().memory_analysis().temp_size_in_bytes
    doing: list[str] = []
    findings = found("prepare", compiled=True, progress=doing.append)
    assert findings.before is not None and findings.before.exact
    assert findings.before.temporaries == expected
    assert doing == ["compiling", "running inline-calls", "running simplify", "compiling"]


def test_choices_are_read_from_remarks(findings: Findings) -> None:
    remarks = [choice("a", "keep", 1024), choice("b", "recompute", 4096, cost=2e-6), choice("c", "keep", 2048)]
    other = Remark("analysis", "insert-remat", args={"bytes": 3})
    decided = replace(findings, remarks=[*remarks, other, replace(remarks[0], kind="passed")])
    assert decided.choices == [
        Choice("b", "recompute", 4096, 2e-6, "model.py", 7),
        Choice("c", "keep", 2048, None, "model.py", 7),
        Choice("a", "keep", 1024, None, "model.py", 7),
    ]
    assert decided.bytes_by_choice == {"keep": 3072, "recompute": 4096, "offload": 0}
    assert json.loads(decided.to_json())["choices"][0]["value"] == "b"


def test_the_page_loads_nothing_and_shows_everything(findings: Findings) -> None:
    pytest.importorskip("jinja2")
    pytest.importorskip("matplotlib")
    decided = [choice(f"v{i}", "keep", 1024) for i in range(SHOWN_CHOICES)]
    decided.append(choice("dear", "recompute", 4096, cost=2e-6))
    missed = Remark("missed", "raise-attention", "zenith.attention", "main", "m.py", 3, 0, "a < b & c", "write <b>")
    page = render(replace(findings, remarks=[*findings.remarks, missed, missed, *decided]))
    assert not re.search(r"""(src|href)=["'](?!#)|url\((?!#)|@import|<script""", page)
    assert "a &lt; b &amp; c" in page and "write &lt;b&gt;" in page and "missed × 2" in page
    assert page.index("a &lt; b") < page.index(">zenith.softmax<")
    assert re.search(r'recompute</td><td class="code">dear</td>\s*<td class="number">4.0 KiB</td>', page)
    assert "2 µs" in page and f"The largest {SHOWN_CHOICES} of {SHOWN_CHOICES + 1}." in page
    assert "before, peak" in page and "currentColor" in page and "#010203" not in page
    assert render(findings) == render(findings)
    assert "What the backward needs" not in render(findings)


@pytest.mark.once
def test_memory_that_is_not_known_is_said() -> None:
    pytest.importorskip("jinja2")
    dynamic = "func.func public @main(%x: tensor<?xf32>) -> tensor<?xf32> {\n"
    dynamic += "%a = stablehlo.sine %x : tensor<?xf32>\nreturn %a : tensor<?xf32>\n}"
    findings = run(zenith.load(dynamic), "dynamic", Pipeline.parse(""), CPU)
    assert findings.before is findings.after is None
    assert "Not known: tensor&lt;?xf32&gt; has a shape known only when called" in render(findings)
    assert json.loads(findings.to_json())["memory"]["before"] is None


@pytest.mark.once
def test_missing_libraries_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "jinja2", None)
    with pytest.raises(ZenithError, match=r'jinja2, which is not installed: pip install "zenith_mlir\[report\]"'):
        optional.need("jinja2", "report")


@pytest.mark.once
def test_help_is_quick() -> None:
    code = "import sys\nfrom zenith_mlir.tools.zenith_report import main\ntry:\n  main(['--help'])\nfinally:\n"
    code += "  assert not {'jax', 'jaxlib', 'matplotlib', 'jinja2', 'numpy'} & sys.modules.keys()"
    root = Path(__file__).parents[2]
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True)
    assert done.returncode == 0 and "--compile" in done.stdout, done.stderr
