"""What the time of attention on the CPU is made of, for the cost model (costs.py)."""

from __future__ import annotations

from collections.abc import Iterable
from math import prod

import numpy as np

from zenith_mlir.dialects.attention import AttentionSpec
from zenith_mlir.dialects.implementation import Request, TensorSpec, Work

# Queries lie along the lanes of a vector: fewer than fill one cost as much. So many are a panel, at most.
_LANES, _PANEL = 16, 48
# Few of them, over many keys each, have a kernel whose lanes are features, but for a backward and its forward.
_FEW, _KEYS_PER_QUERY = 8, 8


def forward_work(request: Request) -> Work | None:
    """None where the user's min-seq decides, and for a forward that a backward needs: the two are weighed together."""
    spec: AttentionSpec = request.spec
    return None if request.min_seq is not None or spec.residuals else _work(spec, request, forward=True)


def backward_work(request: Request) -> Work | None:
    """That of a backward and its forward; None where the user's min-seq decides."""
    return None if request.min_seq is not None else _work(request.spec.attention, request, forward=False)


def _work(spec: AttentionSpec, request: Request, *, forward: bool) -> Work:
    parallel, rows, columns = prod(spec.size(axis) for axis in spec.parallel), spec.size("t"), spec.size("s")
    logits = parallel * rows * columns
    lanes = parallel * -(-rows // _LANES) * _LANES * columns * _visible(spec, rows, columns)
    depth = spec.size("e") + prod(spec.size(axis) for axis in spec.contracted)
    steps, modifiers = len(spec.steps), sum(step.operand is not None for step in spec.steps)
    panels = parallel * -(-rows // _PANEL)
    elements = _elements((*request.operands, *request.results))
    tiles = {
        "call": 1,
        "panels": panels,
        "elements": elements,
        "logits": lanes,
        "products": lanes * depth,
        "modifiers": lanes * modifiers,
    }
    streams = {"call": 1, "streams": parallel, "streamed": elements, "streamed products": logits * depth}
    return Work(
        spec.roles(request.operands)[0].dtype.name,
        streams if forward and rows <= _FEW and columns >= _KEYS_PER_QUERY * rows else tiles,
        {
            "call": 1,
            "elements": elements,
            "logits": logits,
            "products": logits * depth,
            "steps": logits * steps,
        },
    )


def _visible(spec: AttentionSpec, rows: int, columns: int) -> float:
    """The share of logits inside every band: the others are skipped."""
    first, last = np.zeros(rows), np.full(rows, columns - 1.0)
    row = np.arange(rows)
    for step in spec.steps:
        if step.kind != "band":
            continue
        first = first if step.low is None else np.maximum(first, row + step.low)
        last = last if step.high is None else np.minimum(last, row + step.high)
    seen = np.maximum(last - first + 1, 0).sum()
    return float(seen / max(rows * columns, 1)) or 1.0


def _elements(tensors: Iterable[TensorSpec]) -> int:
    return sum(prod(tensor.shape) for tensor in tensors)
