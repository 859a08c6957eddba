"""Models that compute in 16 bits: the pipeline with cast-precision in it."""

from __future__ import annotations

from zenith_mlir.errors import ZenithError

__all__ = ["with_precision"]


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
