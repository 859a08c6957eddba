"""The element types that the CPU kernels take."""

from __future__ import annotations

from collections.abc import Iterable

from zenith_mlir.dialects.implementation import Refusal, TensorSpec

FLOATS = ("float32", "bfloat16", "float16")
LIMITS = f"operands and results of {', '.join(FLOATS)}"


def refuse_other_types(tensors: Iterable[TensorSpec]) -> Refusal | None:
    """Where an operand or result is none of `FLOATS`."""
    for tensor in tensors:
        if tensor.dtype.name not in FLOATS:
            return Refusal(f"the CPU kernel takes {', '.join(FLOATS)}, not {tensor.dtype.name}")
    return None
