"""Every zenith op by name. One row an op; its file says the rest."""

from __future__ import annotations

from zenith_mlir.dialects import (
    attention,
    attention_vjp,
    cross_entropy,
    cross_entropy_vjp,
    gelu,
    gelu_vjp,
    group_norm,
    layer_norm,
    layer_norm_vjp,
    log_softmax,
    log_softmax_vjp,
    matmul,
    rms_norm,
    rms_norm_vjp,
    rotary,
    rotary_vjp,
    silu,
    silu_vjp,
    softmax,
    softmax_vjp,
    swiglu,
    swiglu_vjp,
)
from zenith_mlir.dialects.implementation import Op
from zenith_mlir.kernels.cpu import activation_implementation as cpu_activation
from zenith_mlir.kernels.cpu import attention_implementation as cpu_attention
from zenith_mlir.kernels.cpu import attention_vjp_implementation as cpu_attention_vjp
from zenith_mlir.kernels.cpu import cross_entropy_implementation as cpu_cross_entropy
from zenith_mlir.kernels.cpu import matmul_implementation as cpu_matmul
from zenith_mlir.kernels.cpu import norm_implementation as cpu_norm
from zenith_mlir.kernels.cpu import rotary_implementation as cpu_rotary
from zenith_mlir.kernels.cpu import softmax_implementation as cpu_softmax
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
    Op(matmul.NAME, matmul.MatmulSpec.from_attributes, (cpu_matmul.IMPLEMENTATION,)),
    Op(rotary.NAME, rotary.RotarySpec.from_attributes, (cpu_rotary.IMPLEMENTATION,)),
    Op(rotary_vjp.NAME, rotary.RotarySpec.from_attributes, (cpu_rotary.VJP_IMPLEMENTATION,)),
    Op(layer_norm.NAME, layer_norm.LayerNormSpec.from_attributes, (cpu_norm.IMPLEMENTATION,)),
    Op(layer_norm_vjp.NAME, layer_norm_vjp.LayerNormVjpSpec.from_attributes, (cpu_norm.VJP_IMPLEMENTATION,)),
    Op(group_norm.NAME, group_norm.GroupNormSpec.from_attributes, ()),
    Op(rms_norm.NAME, rms_norm.RmsNormSpec.from_attributes, (cpu_norm.IMPLEMENTATION,)),
    Op(rms_norm_vjp.NAME, rms_norm_vjp.RmsNormVjpSpec.from_attributes, (cpu_norm.VJP_IMPLEMENTATION,)),
    Op(softmax.NAME, softmax.SoftmaxSpec.from_attributes, (cpu_softmax.SOFTMAX,)),
    Op(softmax_vjp.NAME, softmax_vjp.SoftmaxVjpSpec.from_attributes, (cpu_softmax.SOFTMAX_VJP,)),
    Op(log_softmax.NAME, log_softmax.LogSoftmaxSpec.from_attributes, (cpu_softmax.LOG_SOFTMAX,)),
    Op(log_softmax_vjp.NAME, log_softmax_vjp.LogSoftmaxVjpSpec.from_attributes, (cpu_softmax.LOG_SOFTMAX_VJP,)),
    Op(cross_entropy.NAME, cross_entropy.CrossEntropySpec.from_attributes, (cpu_cross_entropy.IMPLEMENTATION,)),
    Op(
        cross_entropy_vjp.NAME,
        cross_entropy_vjp.CrossEntropyVjpSpec.from_attributes,
        (cpu_cross_entropy.VJP_IMPLEMENTATION,),
    ),
)
OPS: dict[str, Op] = {op.name: op for op in _ROWS}
