"""The benchmarks of the kernels run, and say what they measured."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.once

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


def test_kernels_are_measured_against_xla(tmp_path: Path) -> None:
    rows = tmp_path / "rows.json"
    options = [
        "--only",
        "silu float32 N64",
        "--peers",
        "xla",
        "--rounds",
        "1",
        "--seconds",
        "0.001",
        "--json",
        str(rows),
    ]
    run = subprocess.run([sys.executable, "kernels.py", *options], cwd=BENCHMARKS, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    assert "xla/zenith: mean, worst" in run.stdout
    (row,) = json.loads(rows.read_text())["rows"]
    assert row["case"] == "silu float32 N64 F768"
    assert set(row["median"]) == {"zenith", "xla"} and min(row["median"].values()) > 0


def test_every_case_has_a_name_of_its_own() -> None:
    code = (
        "from cases import cases; names = [str(case) for case in cases()]; assert len(names) == len(set(names)) > 100"
    )
    run = subprocess.run([sys.executable, "-c", code], cwd=BENCHMARKS, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
