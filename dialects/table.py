"""Every zenith op by name. One row an op; its file says the rest."""

from __future__ import annotations

from zenith_mlir.dialects import (
    attention,
    attention_vjp,
    gelu,
    gelu_vjp,
    rotary,
    rotary_vjp,
    silu,
    silu_vjp,
    swiglu,
    swiglu_vjp,
)
from zenith_mlir.dialects.implementation import Op
from zenith_mlir.kernels.cpu import activation_implementation as cpu_activation
from zenith_mlir.kernels.cpu import attention_implementation as cpu_attention
from zenith_mlir.kernels.cpu import attention_vjp_implementation as cpu_attention_vjp
from zenith_mlir.kernels.cpu import rotary_implementation as cpu_rotary
from zenith_mlir.kernels.cpu import swiglu_implementation as cpu_swiglu
from zenith_mlir.kernels.gpu import cudnn_attention, cudnn_attention_vjp

_ROWS = (
    Op(
        attention.NAME,
        attention.AttentionSpec.from_attributes,
        (cpu_attention.IMPLEMENTATION, cudnn_attention.IMPLEMENTATION),
    ),
    Op(
        attention_vjp.NAME,
        attention_vjp.AttentionVjpSpec.from_attributes,
        (cpu_attention_vjp.IMPLEMENTATION, cudnn_attention_vjp.IMPLEMENTATION),
    ),
    Op(gelu.NAME, gelu.GeluSpec.from_attributes, (cpu_activation.IMPLEMENTATION,)),
    Op(gelu_vjp.NAME, gelu.GeluSpec.from_attributes, (cpu_activation.VJP_IMPLEMENTATION,)),
    Op(silu.NAME, silu.SiluSpec.from_attributes, (cpu_activation.IMPLEMENTATION,)),
    Op(silu_vjp.NAME, silu.SiluSpec.from_attributes, (cpu_activation.VJP_IMPLEMENTATION,)),
    Op(swiglu.NAME, swiglu.SwigluSpec.from_attributes, (cpu_swiglu.IMPLEMENTATION,)),
    Op(swiglu_vjp.NAME, swiglu.SwigluSpec.from_attributes, (cpu_swiglu.VJP_IMPLEMENTATION,)),
    Op(rotary.NAME, rotary.RotarySpec.from_attributes, (cpu_rotary.IMPLEMENTATION,)),
    Op(rotary_vjp.NAME, rotary.RotarySpec.from_attributes, (cpu_rotary.VJP_IMPLEMENTATION,)),
)
OPS: dict[str, Op] = {op.name: op for op in _ROWS}
