"""Every zenith op by name. One row an op; its file says the rest."""

from __future__ import annotations

from zenith_mlir.dialects import attention, attention_vjp
from zenith_mlir.dialects.implementation import Op
from zenith_mlir.kernels.cpu import attention_implementation as cpu_attention
from zenith_mlir.kernels.cpu import attention_vjp_implementation as cpu_attention_vjp
from zenith_mlir.kernels.gpu import cudnn_attention, cudnn_attention_vjp

OPS: dict[str, Op] = {
    attention.NAME: Op(
        attention.NAME,
        attention.AttentionSpec.from_attributes,
        (cpu_attention.IMPLEMENTATION, cudnn_attention.IMPLEMENTATION),
    ),
    attention_vjp.NAME: Op(
        attention_vjp.NAME,
        attention_vjp.AttentionVjpSpec.from_attributes,
        (cpu_attention_vjp.IMPLEMENTATION, cudnn_attention_vjp.IMPLEMENTATION),
    ),
}
