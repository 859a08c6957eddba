"""How far results of a model are from those of JAX."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import ml_dtypes
import numpy as np
from jaxlib.mlir import ir

from zenith_mlir.ir.facts import element_type, walk

__all__ = ["Difference", "compare_arrays", "default_tolerance", "narrowest_float"]

Array = np.ndarray[Any, Any]

# Of the largest magnitude of an output. Two correct float32 programs with sums in another order stay well below.
_TOLERANCES = {"float64": 1e-9, "float32": 1e-4, "float16": 1e-2, "bfloat16": 6e-2}


@dataclass(frozen=True)
class Difference:
    """Of one output.

    `maximum` and `mean` are absolute, `relative` is the maximum over the largest magnitude that is finite, `ulp` the
    maximum in units in the last place. Elements that are not finite have to be the same; `unlike` counts those that are
    not, and shapes or types that differ are a `problem`.
    """

    name: str
    dtype: str = ""
    maximum: float = 0.0
    mean: float = 0.0
    relative: float = 0.0
    ulp: float = 0.0
    unlike: int = 0
    problem: str = ""

    def within(self, tolerance: float | None, narrowest: str = "") -> bool:
        """Whether `relative` is at most `tolerance`, by default that of the type, or of the `narrowest` float that the
        program computes in.
        """
        limit = default_tolerance(self.dtype, narrowest) if tolerance is None else tolerance
        return not self.problem and not self.unlike and self.relative <= limit


def default_tolerance(dtype: str, narrowest: str = "") -> float:
    """Relative to the largest magnitude of an output; integers and booleans have to be equal."""
    own = _TOLERANCES.get(dtype, 0.0)
    return max(own, _TOLERANCES.get(narrowest, 0.0)) if own else 0.0


def narrowest_float(module: ir.Operation) -> str:
    """The float of fewest digits that a program computes in, as NumPy calls it; empty if it has none."""
    types = {str(element_type(result)) for op in walk(module) for result in op.results if _is_tensor(result)}
    return next((dtype for name, dtype in _NARROW_FIRST if name in types), "")


def _is_tensor(value: ir.Value) -> bool:
    return isinstance(value.type, ir.RankedTensorType)


_NARROW_FIRST = (("bf16", "bfloat16"), ("f16", "float16"), ("f32", "float32"), ("f64", "float64"))


def compare_arrays(name: str, expected: Array, found: Array) -> Difference:
    """The difference of an output from what JAX computes."""
    dtype = str(expected.dtype)
    if expected.shape != found.shape or expected.dtype != found.dtype:
        problem = f"{found.dtype}{list(found.shape)} instead of {dtype}{list(expected.shape)}"
        return Difference(name, dtype, problem=problem)
    if not expected.size:
        return Difference(name, dtype)
    wide = [_wide(array) for array in (expected, found)]
    finite = [np.isfinite(array) for array in wide]
    both = finite[0] & finite[1]
    same = both | (wide[0] == wide[1]) | (np.isnan(wide[0]) & np.isnan(wide[1]))
    distance = np.abs(np.where(both, wide[0], 0) - np.where(both, wide[1], 0))
    scale = np.abs(wide[0][finite[0]]).max(initial=0.0)
    maximum = float(distance.max())
    return Difference(
        name,
        dtype,
        maximum,
        float(distance.mean()),
        maximum / float(scale) if scale else maximum,
        _ulp(expected, found, both),
        int((~same).sum()),
    )


def _wide(array: Array) -> Array:
    if array.dtype.kind == "c":
        return array.astype(np.complex128)
    return array.astype(np.longdouble if array.dtype.kind in "iu" else np.float64)


def _ulp(expected: Array, found: Array, both: Array) -> float:
    """Between floats: how many numbers of their type lie between them."""
    if not is_float(expected.dtype) or not both.any():
        return 0.0
    lines = [_ordered(array[both]) for array in (expected, found)]
    return float(np.abs(lines[0] - lines[1]).max())


def is_float(dtype: np.dtype[Any]) -> bool:
    return dtype.kind == "f" or dtype == ml_dtypes.bfloat16


def _ordered(array: Array) -> Array:
    """Integers in the order of the floats, neighbours of neighbours; as floats, which hold their differences."""
    bits = array.view(np.dtype(f"i{array.dtype.itemsize}")).astype(np.int64)
    lowest = -(2 ** (8 * array.dtype.itemsize - 1))
    return np.where(bits < 0, lowest - bits, bits).astype(np.longdouble)


def worst(differences: Iterable[Difference]) -> Difference | None:
    """The one that is furthest from JAX."""
    return max(differences, key=lambda each: (bool(each.problem), each.unlike, each.relative), default=None)
