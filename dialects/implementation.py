"""Implementations of a zenith op: JAX functions with their limits and their worth, one row of an op's table each."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from zenith_mlir.context import NUMERICS, Numerics
from zenith_mlir.target import Target


@dataclass(frozen=True)
class TensorSpec:
    """Shape and dtype of an operand or result."""

    shape: tuple[int, ...]
    dtype: np.dtype

    def __str__(self) -> str:
        return f"{self.dtype.name}[{','.join(map(str, self.shape))}]"


@dataclass(frozen=True)
class Request:
    """What an implementation is asked for: the op's attributes read (`spec`), its operand and result types, and the
    target. `min_seq` is how short a sequence may be before it is left to XLA, where the user says so himself."""

    spec: Any
    operands: tuple[TensorSpec, ...]
    results: tuple[TensorSpec, ...]
    target: Target
    min_seq: int | None = None


@dataclass(frozen=True)
class Refusal:
    """Why an implementation does not take a request, and what the user could change."""

    reason: str
    suggest: str = ""


@dataclass(frozen=True)
class Work:
    """What an op's time is made of, counted by name for the kernel and for XLA's code, which may do more of it.

    `dtype` is that of the arithmetic's operands.
    """

    dtype: str
    kernel: Mapping[str, float]
    xla: Mapping[str, float]


@dataclass(frozen=True)
class Implementation:
    """One way to compute an op on one platform.

    `refuse` states a limit (it cannot) or what makes it pointless; `build` gives the JAX function of the op's operands.
    `numerics` is the strictest policy that allows it: no kernel sums in XLA's order, so none is "exact". `work` counts
    what it does for a cost model to weigh against XLA; None, or a count that is None, is not weighed. `limits` says for
    a reader what `refuse` refuses.
    """

    name: str
    platform: str
    refuse: Callable[[Request], Refusal | None]
    build: Callable[[Request], Callable[..., Any]]
    numerics: Numerics = "sound"
    work: Callable[[Request], Work | None] | None = None
    limits: str = ""

    def refuse_under(self, numerics: Numerics) -> Refusal | None:
        """Why the policy `numerics` does not allow it."""
        if NUMERICS.index(self.numerics) <= NUMERICS.index(numerics):
            return None
        return Refusal(f"{self.name} changes more than numerics={numerics} allows", f"set numerics={self.numerics}")


@dataclass(frozen=True)
class Op:
    """A zenith op: how to read its attributes, and its implementations in order of preference."""

    name: str
    read: Callable[[dict[str, Any]], Any]
    implementations: Sequence[Implementation]
