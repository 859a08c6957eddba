"""How the results of kernels of rows are judged, and how their tests reach each instruction set."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np

from zenith_mlir.kernels import cpu


def judge(got: Any, exact: np.ndarray, naive: np.ndarray, dtype: Any) -> None:
    """`got` has `dtype`, NaN and infinities exactly where the formula in float32 (`naive`) has them, and in each row at
    most twice its error against the formula in float64 (`exact`), plus a few units in the last place of the row's
    largest number.
    """
    assert got.dtype == jnp.dtype(dtype)
    got = np.asarray(got).astype(np.float64)
    with np.errstate(all="ignore"):
        naive = naive.astype(np.float32).astype(jnp.dtype(dtype)).astype(np.float64)
        exact = exact.astype(np.float64)
        np.testing.assert_array_equal(np.isnan(got), np.isnan(naive))
        np.testing.assert_array_equal(got[np.isinf(naive)], naive[np.isinf(naive)])
        finite = np.isfinite(naive) & np.isfinite(exact)
        size = np.where(finite, np.abs(exact), 0).max(-1, keepdims=True, initial=0)
        bound = 2 * np.where(finite, np.abs(naive - exact), 0).max(-1, keepdims=True, initial=0)
        rounding = 0.0 if dtype == "float32" else float(jnp.finfo(dtype).eps) / 2
        error = np.where(finite, np.abs(got - exact), 0)
    excess = error - (bound + 8 * 2.0**-24 * size + rounding * size + 2.0**-26)
    assert excess.max(initial=-1) <= 0, f"error {error.max()}, more than the {bound.max()} of the plain formula"


def run_narrower(file: str, isa: str, keyword: str) -> None:
    """The tests of `file` whose names have `keyword`, in a process of one thread that is asked to use `isa`."""
    code = (
        "import os, sys; os.sched_setaffinity(0, {min(os.sched_getaffinity(0))}); import pytest;"
        "from zenith_mlir.kernels import cpu; print('on', cpu.instruction_set());"
        "sys.exit(pytest.main(sys.argv[1:]))"
    )
    run = subprocess.run(
        [sys.executable, "-c", code, "-q", "-p", "no:cacheprovider", "-p", "no:xdist", "-k", keyword, file],
        env={**os.environ, "ZENITH_CPU_ISA": isa, "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        cwd=Path(file).parents[2],
    )
    assert run.returncode == 0, run.stdout[-4000:] + run.stderr[-2000:]
    widest = cpu.instruction_set()
    assert run.stdout.startswith(f"on {widest if widest == 'portable' else isa}\n")
