"""The two ceilings of this machine: multiply-adds in registers alone, and a copy of large arrays.

    python benchmarks/peaks.py

`peaks` is what benchmarks/kernels.py reckons its shares against.
"""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np


def peaks(threads: int = 1) -> dict[str, float]:
    """GFLOP/s of float32 and bfloat16 products (0 where there are none) and GB/s of a copy, read and written."""
    return {dtype: _flops(dtype, threads) for dtype in ("float32", "bfloat16")} | {"copy": _copy(threads)}


def _flops(dtype: str, threads: int) -> float:
    from zenith_mlir.kernels.cpu import library

    def run(_: int) -> float:
        return library.peak(dtype, 2_000_000)  # ctypes gives up the interpreter's lock

    return max(_rate(run, threads) for _ in range(8)) / 1e9


def _copy(threads: int) -> float:
    arrays = [(np.ones(1 << 24, np.float32), np.zeros(1 << 24, np.float32)) for _ in range(threads)]

    def run(thread: int) -> float:
        source, target = arrays[thread]
        np.copyto(target, source)
        return 2.0 * source.nbytes

    return max(_rate(run, threads) for _ in range(8)) / 1e9


def _rate(run, threads: int) -> float:
    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(lambda _: None, range(threads)))
        start = time.perf_counter()
        done = sum(pool.map(run, range(threads)))
        return done / (time.perf_counter() - start)


if __name__ == "__main__":
    print({name: round(value, 1) for name, value in peaks().items()})
