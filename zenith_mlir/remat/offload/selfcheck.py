"""Does a program give the same results with its values on the host? Both are run on this machine's own device.

XLA has had bugs in which values that came back from the host were others' (openxla/xla#46231: rows of a scan in reverse
order): gradients were wrong, and nothing else showed it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import jax
import numpy as np
from numpy.typing import NDArray

from zenith_mlir.certify.compare import random_inputs
from zenith_mlir.certify.judge import is_float_like
from zenith_mlir.certify.pair import moved, narrowest_ulp, run
from zenith_mlir.errors import ZenithError
from zenith_mlir.ir.executable import compile_module
from zenith_mlir.target import Target

if TYPE_CHECKING:
    from zenith_mlir.module import Module

__all__ = ["CannotCheck", "difference"]

Array = NDArray[Any]


class CannotCheck(ZenithError):
    """The original program cannot be run here; `too_large` says that the device lacks the memory."""

    def __init__(self, error: Exception) -> None:
        super().__init__(f"the original program does not run here: {_first_line(error)}")
        self.too_large = "RESOURCE_EXHAUSTED" in str(error)


_ERRORS = (ZenithError, jax.errors.JaxRuntimeError)


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [""])[0]


def difference(original: Module, rewritten: Module, target: Target) -> str:
    """What differs between the results of two programs on random arguments; empty if nothing does.

    Results may differ, in the 2-norm, by four times what moving every argument by half an ulp changes in the original,
    and by the rounding that other fusions and other algorithms for products bring. Where a result is an argument that
    changed a little, as the parameters of an optimizer are, the change is what counts.

    Raises:
        CannotCheck: if the original cannot be compiled and run here, say because it does not fit in memory.
    """
    ulp = narrowest_ulp(original)
    try:
        before = compile_module(original, target)
        _, arrays = random_inputs(original, 0, before)
        expected = run(before, arrays)
        near = run(before, [moved(x, ulp, np.random.default_rng(0)) for x in arrays])
    except _ERRORS as error:
        raise CannotCheck(error) from error
    try:
        got = run(compile_module(rewritten, target), arrays)
    except _ERRORS as error:
        return f"it does not run: {_first_line(error)}"
    for i, (e, g, n) in enumerate(zip(expected, got, near, strict=True)):
        distance = _distance(e, g, n, arrays, ulp)
        if distance > 1:
            return f"result {i} differs by {distance:.3g} times what rounding explains"
    return ""


def _distance(expected: Array, got: Array, near: Array, arrays: Sequence[Array], ulp: float) -> float:
    """The distance of two results as a multiple of what is allowed."""
    if not is_float_like(expected.dtype):
        return 0.0 if (expected == got).all() or (expected != near).any() else float("inf")
    finite = np.isfinite(expected) & np.isfinite(near)
    if not np.isfinite(got[finite]).all():
        return float("inf")
    e, g, n = (_wide(x)[finite] for x in (expected, got, near))
    start = _updated(expected, arrays)
    size, share = (_norm(e), max(1e-3, 4 * ulp)) if start is None else (_norm(e - _wide(start)[finite]), 0.1)
    allowed = max(share * size, 4 * _norm(n - e), 4 * float(np.finfo(np.float32).eps) * _norm(e))
    apart = _norm(g - e)
    return apart / allowed if allowed else (float("inf") if apart else 0.0)


def _updated(result: Array, arrays: Sequence[Array]) -> Array | None:
    """The argument of which `result` is a new version, less than half of it away; told by a sample."""
    sample = slice(None, None, max(1, result.size // 4096))
    picked = _wide(result).ravel()[sample]
    for array in arrays:
        if array.shape == result.shape and array.dtype == result.dtype:
            distance = _norm(_wide(array).ravel()[sample] - picked)
            if 0 < distance < _norm(picked) / 2:
                return array
    return None


def _wide(array: Array) -> Array:
    return np.asarray(array, np.complex128 if array.dtype.kind == "c" else np.float64)


def _norm(array: Array) -> float:
    return float(np.linalg.norm(array))
