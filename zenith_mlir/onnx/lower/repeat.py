"""jnp.repeat, as upsampling by the nearest neighbour does it: Resize, which is one node for all axes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx_ir as oir

from zenith_mlir.onnx.builder import Builder

__all__ = ["repeated"]


def repeated(builder: Builder, value: oir.Value, indices: oir.Value, axis: int) -> oir.Value | None:
    """`value` taken at `indices` along an axis, if these are 0, 0, 1, 1, ...: every element as often as any other."""
    known, stored = builder.array(indices), builder.shape(value)
    if known is None or known.ndim != 1 or value.dtype != oir.DataType.FLOAT or len(stored) > 4:
        return None
    if builder.sizes.is_symbolic(stored[axis]) or len(known) % stored[axis]:
        return None
    times = len(known) // stored[axis]
    if times == 1 or not np.array_equal(known, np.repeat(np.arange(stored[axis]), times)):
        return None
    scales = [float(times) if a == axis else 1.0 for a in range(len(stored))]
    return _resized(builder, *_merged(builder, value, scales))


def _merged(builder: Builder, value: oir.Value, scales: Sequence[float]) -> tuple[oir.Value, Sequence[float]]:
    """Together with a Resize before."""
    node = value.producer()
    before = builder.array(node.inputs[2]) if node is not None and node.op_type == "Resize" and node.inputs[2] else None
    if node is None or before is None or node.inputs[0] is None:
        return value, scales
    return node.inputs[0], [a * float(b) for a, b in zip(scales, before, strict=True)]


def _resized(builder: Builder, value: oir.Value, scales: Sequence[float]) -> oir.Value:
    dims = [int(size * scale) for size, scale in zip(builder.shape(value), scales, strict=True)]
    operands = [value, None, builder.constant(np.asarray(scales, np.float32))]
    attributes = {"mode": "nearest", "coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}
    return builder.nodes("Resize", operands, [(oir.DataType.FLOAT, dims)], **attributes)[0]
