"""What the time of zenith.matmul on the CPU is made of, for the cost model (costs.py)."""

from __future__ import annotations

from math import prod

from zenith_mlir.dialects.implementation import Request, Work
from zenith_mlir.dialects.matmul import MatmulSpec


def work(request: Request) -> Work:
    """Multiply-adds, elements read and written, and steps applied to elements of the result."""
    spec: MatmulSpec = request.spec
    result = prod(request.results[0].shape)
    counts = {
        "call": 1,
        "products": result * spec.size(spec.contracted),
        "elements": sum(prod(tensor.shape) for tensor in (*request.operands, *request.results)),
        "steps": result * len(spec.steps),
    }
    return Work(spec.roles(request.operands)[0].dtype.name, counts, counts)
