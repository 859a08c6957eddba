"""Running a test file again on a narrower instruction set, which a process chooses once."""

import os
import subprocess
import sys
from pathlib import Path

from zenith_mlir.kernels import cpu


def run_on(isa: str, file: str, *arguments: str) -> None:
    """Run the tests of `file` with ZENITH_CPU_ISA=isa, on one thread: this process has one a core."""
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
    widest = cpu.instruction_set()
    assert run.stdout.startswith(f"on {widest if widest == 'portable' else isa}\n")
