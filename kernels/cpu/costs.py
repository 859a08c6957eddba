"""What an op costs on the CPU, as a kernel and as XLA compiles its decomposition, and so whether the kernel pays.

An op's `work` counts what its time is made of (multiply-adds, exponentials, elements moved, calls) on either side;
`costs.json` has the nanoseconds that one of each takes on one thread, by instruction set, op and dtype. Both sides are
straight lines through what `benchmarks/calibrate.py` measured, which also writes the file. The environment variable
ZENITH_CPU_COSTS names another one; the option `cost-model=false` of lower-kernels asks nobody.
"""

from __future__ import annotations

import functools
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from zenith_mlir.dialects.implementation import Refusal, Work
from zenith_mlir.errors import ZenithError
from zenith_mlir.target import CPU_LEVELS, Target

VARIABLE = "ZENITH_CPU_COSTS"
_DEFAULT = Path(__file__).with_name("costs.json")

# A prediction within this factor is a draw, which the kernel wins: it takes no memory for intermediate values.
_MARGIN = 1.1


@dataclass(frozen=True)
class Line:
    """Nanoseconds for one of each term of a `Work`."""

    terms: Mapping[str, float]

    def nanoseconds(self, counts: Mapping[str, float]) -> float:
        return sum(self.terms.get(term, 0.0) * count for term, count in counts.items())


def refuse(op: str, work: Work, target: Target) -> Refusal | None:
    """Why the kernel does not pay; None where it does, and where nothing is known about the op."""
    found = lines(op, work.dtype, target)
    if found is None:
        return None
    kernel, xla = found["kernel"].nanoseconds(work.kernel), found["xla"].nanoseconds(work.xla)
    if kernel <= _MARGIN * xla:
        return None
    return Refusal(
        f"it would not pay here: about {_time(kernel)} as a kernel, {_time(xla)} as XLA compiles it",
        "set cost-model=false to fuse it",
    )


def lines(op: str, dtype: str, target: Target) -> dict[str, Line] | None:
    """The lines of the widest instruction set that `target` has and the file knows."""
    table = _read(os.environ.get(VARIABLE, str(_DEFAULT)))
    for level in reversed(levels(target)):
        if (found := table.get(level, {}).get(op, {}).get(dtype)) is not None:
            return {side: Line(terms) for side, terms in found.items()}
    return None


# As kernels/cpu/isa.h orders them. The features are those of the target's levels, but for the one that has no level.
_ORDER: Mapping[str, frozenset[str]] = {
    "portable": CPU_LEVELS["generic"],
    "avx2": CPU_LEVELS["avx2"],
    "avx512": CPU_LEVELS["avx512"],
    "avx512bf16": CPU_LEVELS["avx512"] | {"avx512_bf16"},
    "amx": CPU_LEVELS["amx"],
}


def levels(target: Target) -> list[str]:
    """The instruction sets of the kernels that `target` has and ZENITH_CPU_ISA allows, widest last."""
    allowed = list(_ORDER)
    asked = os.environ.get("ZENITH_CPU_ISA", "")
    if asked in _ORDER:
        allowed = allowed[: allowed.index(asked) + 1]
    return [name for name in allowed if target.has(*_ORDER[name])]


@functools.cache
def _read(path: str) -> dict[str, Any]:
    """The file's tables.

    Raises: ZenithError if it cannot be read or is not what `benchmarks/calibrate.py` writes.
    """
    try:
        table = json.loads(Path(path).read_text() or "{}")  # an empty file knows nothing: every kernel is taken
        for ops in table.values():
            for dtypes in ops.values():
                for sides in dtypes.values():
                    {term: float(value) for side in ("kernel", "xla") for term, value in sides[side].items()}
    except (OSError, ValueError, AttributeError, KeyError, TypeError) as error:
        raise ZenithError(
            f"{path} is no table of costs ({type(error).__name__}: {error}); make one with benchmarks/calibrate.py "
            f"or unset {VARIABLE}"
        ) from error
    return dict(table)


def _time(nanoseconds: float) -> str:
    return f"{nanoseconds / 1e3:.3g} us" if nanoseconds < 1e6 else f"{nanoseconds / 1e6:.3g} ms"
