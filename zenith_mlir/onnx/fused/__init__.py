"""zenith ops as ONNX's own operators, a file an op.

Each function returns views of the results, or None where no operator of the opset means exactly the same: the
decomposition is converted then.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from jaxlib.mlir import ir

from zenith_mlir.onnx.convert import Walk
from zenith_mlir.onnx.view import View

__all__ = ["FUSED", "Fused"]

Fused = Callable[[Walk, ir.Operation], Sequence[View] | None]

FUSED: dict[str, Fused] = {}
