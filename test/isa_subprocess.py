"""Running tests of a file again on a narrower instruction set, which a process chooses once."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from zenith_mlir.kernels import cpu

INSTRUCTION_SETS = ("portable", "avx2", "avx512", "avx512bf16", "amx")


def run_on(isa: str, file: str, *arguments: str) -> None:
    """Run the tests of `file` with ZENITH_CPU_ISA=isa, on one thread: this process has one a core.

    Skipped where `isa` is not narrower than what this process uses.
    """
    if INSTRUCTION_SETS.index(isa) >= INSTRUCTION_SETS.index(cpu.instruction_set()):
        pytest.skip(f"{isa} is not narrower than what this process uses")
    code = (
        "import os, sys; os.sched_setaffinity(0, {min(os.sched_getaffinity(0))}); import pytest;"
        "from zenith_mlir.kernels import cpu; print('on', cpu.instruction_set());"
        "sys.exit(pytest.main(sys.argv[1:]))"
    )
    run = subprocess.run(
        [sys.executable, "-c", code, "-q", "-p", "no:cacheprovider", "-p", "no:xdist", file, *arguments],
        env={**os.environ, "ZENITH_CPU_ISA": isa, "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        cwd=Path(__file__).parents[1],
    )
    assert run.returncode == 0, run.stdout[-4000:] + run.stderr[-2000:]
    assert run.stdout.startswith(f"on {isa}\n")
