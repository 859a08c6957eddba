"""Running tests of a file again on a narrower instruction set, which a process chooses once."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from zenith_mlir.kernels import cpu

INSTRUCTION_SETS = ("portable", "avx2", "avx512", "avx512bf16", "amx")


def run_on(isa: str, file: str, *arguments: str, every: int = 3) -> None:
    """Run the tests of `file` with ZENITH_CPU_ISA=isa, on one thread: this process has one a core.

    Of the tests that `arguments` select one in `every` runs, others for each set; all do with ZENITH_TEST_ALL=1.
    Skipped where `isa` is not narrower than what this process uses.
    """
    if INSTRUCTION_SETS.index(isa) >= INSTRUCTION_SETS.index(cpu.instruction_set()):
        pytest.skip(f"{isa} is not narrower than what this process uses")
    every = 1 if "ZENITH_TEST_ALL" in os.environ else every
    cores, worker = sorted(os.sched_getaffinity(0)), os.environ.get("PYTEST_XDIST_WORKER", "gw0")
    core, first = cores[int(worker[2:]) % len(cores)], INSTRUCTION_SETS.index(isa) % every
    code = (
        f"import os, sys; os.sched_setaffinity(0, {{{core}}}); import pytest;"
        "from zenith_mlir.kernels import cpu; print('on', cpu.instruction_set());"
        "some = type('Some', (), {'pytest_collection_modifyitems': "
        f"lambda self, items: items.__setitem__(slice(None), items[{first}::{every}])}})();"
        "sys.exit(pytest.main(sys.argv[1:], plugins=[some]))"
    )
    # Sanitizers write to file descriptor 2, which pytest must leave alone for their reports to come back.
    run = subprocess.run(
        [
            sys.executable,
            "-c",
            code,
            "-q",
            "-p",
            "no:cacheprovider",
            "-p",
            "no:xdist",
            "--capture=sys",
            "--assert=plain",  # rewriting the plugins of pytest takes longer than many a file
            file,
            *arguments,
        ],
        env={**os.environ, "ZENITH_CPU_ISA": isa, "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        cwd=Path(__file__).parents[1],
    )
    assert run.returncode == 0, run.stdout[-4000:] + run.stderr[-2000:]
    assert run.stdout.startswith(f"on {isa}\n")
