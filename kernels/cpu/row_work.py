"""What the time of an op on rows or single elements is made of, for the cost model (costs.py)."""

from __future__ import annotations

from math import prod

from zenith_mlir.dialects.implementation import Request, Work

ESCAPES = "values inside are used elsewhere as well, so they are computed anyway"


def work(request: Request) -> Work:
    """The elements of all operands and results; the dtype is that of the first operand."""
    elements = sum(prod(tensor.shape) for tensor in (*request.operands, *request.results))
    counts = {"call": 1, "elements": elements}
    return Work(request.operands[0].dtype.name, counts, counts)
