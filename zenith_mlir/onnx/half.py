"""Models that compute in 16 bits: the pipeline with cast-precision in it."""

from __future__ import annotations

import re

from zenith_mlir.errors import ZenithError
from zenith_mlir.onnx.differences import default_tolerance

__all__ = ["reduced_tolerance", "with_precision"]


def with_precision(pipeline: str, precision: str | None) -> str:
    """`pipeline` with `cast-precision` to "f16" or "bf16" behind it.

    Raises:
        ZenithError: for another precision.
    """
    if precision is None:
        return pipeline
    if precision not in ("f16", "bf16"):
        raise ZenithError(f"precision={precision!r}: it is 'f16', 'bf16', or None for that of the program")
    return f"{pipeline},cast-precision{{compute={precision}}}"


def reduced_tolerance(pipeline: str) -> float | None:
    """How far a program that `pipeline` computes in 16 bits may be from itself before, relative to the largest
    magnitude of an output; None where the pipeline does not.
    """
    found = re.search(r"cast-precision\{[^}]*compute=(f16|bf16)\b", pipeline)
    return default_tolerance({"f16": "float16", "bf16": "bfloat16"}[found[1]]) if found else None
