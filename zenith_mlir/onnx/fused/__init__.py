"""zenith ops as ONNX's own operators, a file an op.

Each function returns views of the results, or None where neither an operator of the opset means exactly the same nor a
spelling is better than the decomposition: the decomposition is converted then. What is chosen is what
`benchmarks/onnx_fused.py` measures to be the fastest on onnxruntime's CPU; `Builder.fused` forces another choice.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from jaxlib.mlir import ir

from zenith_mlir.onnx.convert import Walk
from zenith_mlir.onnx.fused.attention import attention
from zenith_mlir.onnx.fused.cross_entropy import cross_entropy
from zenith_mlir.onnx.fused.gelu import gelu
from zenith_mlir.onnx.fused.group_norm import group_norm
from zenith_mlir.onnx.fused.layer_norm import layer_norm
from zenith_mlir.onnx.fused.matmul import matmul
from zenith_mlir.onnx.fused.rms_norm import rms_norm
from zenith_mlir.onnx.fused.rotary import rotary
from zenith_mlir.onnx.fused.silu import silu
from zenith_mlir.onnx.fused.softmax import log_softmax, softmax
from zenith_mlir.onnx.fused.swiglu import swiglu
from zenith_mlir.onnx.view import View

__all__ = ["FUSED", "Fused"]

Fused = Callable[[Walk, ir.Operation], Sequence[View] | None]

FUSED: dict[str, Fused] = {
    "zenith.attention": attention,
    "zenith.cross_entropy": cross_entropy,
    "zenith.gelu": gelu,
    "zenith.group_norm": group_norm,
    "zenith.layer_norm": layer_norm,
    "zenith.log_softmax": log_softmax,
    "zenith.matmul": matmul,
    "zenith.rms_norm": rms_norm,
    "zenith.rotary": rotary,
    "zenith.silu": silu,
    "zenith.softmax": softmax,
    "zenith.swiglu": swiglu,
}
