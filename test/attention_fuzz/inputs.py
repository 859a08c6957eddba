"""Numbers for the arguments of a random program."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]

# Input sets: of order one; logits far apart; rows with nothing to see; a NaN or an infinity somewhere.
SETS = ("ordinary", "large", "hidden rows", "special")


@dataclass(frozen=True)
class Argument:
    """`kind` says which numbers make sense: activation, bias, factor, mask, keep, lengths, segments; integers are below
    `bound`.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    kind: str
    bound: int = 0

    def __str__(self) -> str:
        return f"{self.name}: {self.dtype}{list(self.shape)}"


def draw(argument: Argument, name: str, rng: np.random.Generator) -> Array:
    """An array for `argument` in the input set `name`."""
    return _DRAWN[argument.kind](argument, name, rng)


def _float(argument: Argument, name: str, rng: np.random.Generator) -> Array:
    values = np.asarray(rng.standard_normal(argument.shape))
    if argument.kind == "factor":
        values = 0.5 + np.asarray(rng.random(argument.shape))
    if argument.kind == "keep":
        values = np.asarray((values < 1) / 0.8)
    if name == "large" and argument.kind in ("activation", "bias"):
        values = values * 8
    if name == "hidden rows" and argument.kind == "bias" and values.ndim and rng.random() < 0.3:
        values[0] = -np.inf
    if name == "special" and values.size and rng.random() < 0.3:
        values.flat[rng.integers(values.size)] = rng.choice([np.nan, np.inf, -np.inf])
    return values.astype(_dtype(argument.dtype))


def _mask(argument: Argument, name: str, rng: np.random.Generator) -> Array:
    keep = np.asarray(rng.random(argument.shape) < 0.7)
    if name == "hidden rows":
        half = slice((len(keep) + 1) // 2) if keep.ndim else ...
        keep[half] = False
    elif keep.ndim:
        keep[..., 0] = True
    return keep.astype(_dtype(argument.dtype))


def _integers(argument: Argument, name: str, rng: np.random.Generator) -> Array:
    low = 0 if name == "hidden rows" or argument.kind == "segments" else 1
    values = np.asarray(rng.integers(low, argument.bound, argument.shape), np.int32)
    if name == "hidden rows" and argument.name == "row_segments":
        values = values + argument.bound
    return np.asarray(values, np.int32)


def _keep(argument: Argument, name: str, rng: np.random.Generator) -> Array:
    if argument.dtype != "bool":
        return _float(argument, name, rng)
    return np.asarray(rng.random(argument.shape) < 0.8)


def _dtype(name: str) -> np.dtype[Any]:
    return np.dtype(ml_dtypes.bfloat16 if name == "bfloat16" else name)


_DRAWN = {
    "activation": _float,
    "bias": _float,
    "factor": _float,
    "mask": _mask,
    "keep": _keep,
    "lengths": _integers,
    "segments": _integers,
}
