"""Every zenith op by name. One row an op; its file says the rest."""

from __future__ import annotations

from zenith_mlir.dialects import attention
from zenith_mlir.dialects.implementation import Op
from zenith_mlir.kernels.cpu import attention_implementation as cpu_attention

OPS: dict[str, Op] = {
    attention.NAME: Op(attention.NAME, attention.AttentionSpec.from_attributes, (cpu_attention.IMPLEMENTATION,)),
}
