"""Input sets for certification: ordinary ones, and those that break kernels."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from zenith_mlir.certify.judge import is_float_like
from zenith_mlir.certify.roles import Role, draw

__all__ = ["InputSet", "adversarial_inputs"]

Array = NDArray[Any]


class InputSet(NamedTuple):
    """A named tuple of arrays, one for each argument."""

    name: str
    arrays: tuple[Array, ...]


def adversarial_inputs(roles: Sequence[Role], seed: int = 0) -> Iterator[InputSet]:
    """Ordinary inputs, then every case below, each a change of the ordinary ones.

    All float arguments at once: zeros, negative zeros, one constant, denormals, large (times 100). One float
    argument at a time: large (times 1e4), one number of it huge, NaN, inf or -inf, one row of it (along the
    last axis) -inf or, where it is not contracted, the lowest finite number, as an additive mask has for a
    row with nothing to see. One boolean argument at a time: all true, all false, one row false. One integer
    argument at a time: the lowest and the highest value.
    """
    drawn = enumerate(zip(roles, draw(roles, seed), strict=True))
    ordinary = [_ordinary(role, array, seed + i) for i, (role, array) in drawn]
    yield InputSet("ordinary", tuple(ordinary))
    kinds = [_kind(role) for role in roles]
    floats = [i for i, kind in enumerate(kinds) if kind == "float"]
    if floats:
        for name, change_all in ALL_FLOATS.items():
            arrays = (change_all(array) if i in floats else array for i, array in enumerate(ordinary))
            yield InputSet(name, tuple(arrays))
    for i, (role, kind) in enumerate(zip(roles, kinds, strict=True)):
        if ordinary[i].size:
            for name, change in ONE_ARGUMENT[kind].items():
                changed = change(ordinary[i], role)
                if changed is not ordinary[i]:
                    yield InputSet(f"{name} in argument {i}", (*ordinary[:i], changed, *ordinary[i + 1 :]))


def _ordinary(role: Role, array: Array, seed: int) -> Array:
    """Operands of composites are activations, of order one; weights, which `roles` scales down, are not."""
    if not is_float_like(role.dtype) or role.positive:
        return array
    return np.asarray(np.random.default_rng(seed).standard_normal(role.shape)).astype(role.dtype)


def _kind(role: Role) -> str:
    if is_float_like(role.dtype):
        return "float"
    return "boolean" if role.dtype == bool else "integer"


def _scaled(factor: float) -> Callable[[Array], Array]:
    # Float16 ends at 65504: what overflows there stays at its largest.
    def scale(array: Array) -> Array:
        if array.dtype.kind == "c":
            return np.asarray(array * np.asarray(factor, array.dtype))
        limit = float(ml_dtypes.finfo(array.dtype).max)
        return np.asarray(np.clip(array.astype(np.float64) * factor, -limit, limit)).astype(array.dtype)

    return scale


def _filled(number: float) -> Callable[[Array], Array]:
    return lambda array: np.full_like(array, number)


def _denormal(array: Array) -> Array:
    """The ordinary numbers scaled below the smallest normal one of their dtype."""
    tiny = float(ml_dtypes.finfo(array.dtype).smallest_normal)
    return np.asarray(array * np.asarray(1 / 8, array.dtype) * np.asarray(tiny, array.dtype))


def _one_number(number: Callable[[np.dtype[Any]], float]) -> Callable[[Array, Role], Array]:
    def change(array: Array, role: Role) -> Array:
        changed = array.copy()
        changed.flat[array.size // 2] = number(array.dtype)
        return changed

    return change


def _one_row(number: Callable[[np.dtype[Any]], float]) -> Callable[[Array, Role], Array]:
    def change(array: Array, role: Role) -> Array:
        changed = array.copy()
        rows = changed.reshape(-1, array.shape[-1] if array.ndim else 1)
        rows[len(rows) // 2] = number(array.dtype)
        return changed

    return change


def _huge(dtype: np.dtype[Any]) -> float:
    """The square root of the largest number: its products with others stay finite."""
    return math.sqrt(float(ml_dtypes.finfo(dtype).max))


def _lowest_row(array: Array, role: Role) -> Array:
    """Not for what is contracted: whether sums of such numbers overflow hangs on their order."""
    return array if role.factor else _one_row(lambda dtype: float(ml_dtypes.finfo(dtype).min))(array, role)


ALL_FLOATS: dict[str, Callable[[Array], Array]] = {
    "zeros": _filled(0.0),
    "negative zeros": _filled(-0.0),
    "one constant": _filled(1.5),
    "denormals": _denormal,
    "large": _scaled(100.0),
}
ONE_ARGUMENT: dict[str, dict[str, Callable[[Array, Role], Array]]] = {
    "float": {
        "times 1e4": lambda array, role: _scaled(1e4)(array),
        "one huge": _one_number(_huge),
        "one NaN": _one_number(lambda dtype: float("nan")),
        "one inf": _one_number(lambda dtype: float("inf")),
        "one -inf": _one_number(lambda dtype: float("-inf")),
        "a row of the lowest": _lowest_row,
        "a row of -inf": _one_row(lambda dtype: float("-inf")),
    },
    "boolean": {
        "all true": lambda array, role: np.ones_like(array),
        "all false": lambda array, role: np.zeros_like(array),
        "a row false": _one_row(lambda dtype: False),
    },
    "integer": {
        "the lowest": lambda array, role: np.zeros_like(array),
        "the highest": lambda array, role: np.full_like(array, 1 if role.bound is None else role.bound - 1),
    },
}
