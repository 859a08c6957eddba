"""What can be said of an op besides its attributes and its formula: how it is sharded, differentiated and exported."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Declaration:
    """Facts of an op, of which docs/dialect.md is made.

    Attributes:
      sharding: the dimensions of operands and results by name, like an einsum; "..." are leading ones.
      parallel: those of them that may be split over devices, each of which computes its part alone. A result that lacks
        one is the sum over the devices. All others have to be whole.
      derivative: what the gradient is.
      onnx: the ONNX operators that it is, with the opset that brought them.
    """

    sharding: str
    parallel: str
    derivative: str
    onnx: str


_FORMULA = "that of its formula"
_NONE = "none"

_NORM = "... f, ... f, f, f -> ... f, ... f"
_NORM_VJP = "... f, f, ... f, ... f -> ... f, f, f"
_ELEMENTWISE = "every one; f with the bias"

DECLARATIONS: dict[str, Declaration] = {
    "zenith.attention": Declaration(
        "b t h g d, b s h d, b s h e -> b t h g e, b h g t, b h g t",
        "b, h, g; t where no step is a band",
        "zenith.attention_vjp",
        "Attention-23 (scale, softcap, grouped heads; causal bands as is_causal, other bands and masks as attn_mask); "
        "MatMul-13 and Softmax-13 for biases, sinks and steps on the probabilities",
    ),
    "zenith.attention_vjp": Declaration(
        "b t h g d, b s h d, b s h e, b t h g e, b h g t, b h g t, b t h g e -> b t h g d, b s h d, b s h e",
        "b, h, g",
        _FORMULA,
        _NONE,
    ),
    "zenith.layer_norm": Declaration(
        _NORM, "...", "zenith.layer_norm_vjp", "LayerNormalization-17; Add-14 for a residual and an offset"
    ),
    "zenith.layer_norm_vjp": Declaration(_NORM_VJP, "...", _FORMULA, _NONE),
    "zenith.rms_norm": Declaration(
        _NORM,
        "...",
        "zenith.rms_norm_vjp",
        "RMSNormalization-23, before Pow-15 and ReduceMean-13; Add-14 for residual, offset, bias",
    ),
    "zenith.rms_norm_vjp": Declaration(_NORM_VJP, "...", _FORMULA, _NONE),
    "zenith.group_norm": Declaration(
        "b y x g c, g c, g c -> b y x g c",
        "every axis that is not normalised",
        _FORMULA,
        "LayerNormalization-17 over what is normalised; Mul-14 and Add-14 for the weight and the bias",
    ),
    "zenith.gelu": Declaration(
        "... f, f -> ... f",
        _ELEMENTWISE,
        "zenith.gelu_vjp",
        "Gelu-20, before Erf-13 or Sigmoid-13; Add-14 for a bias",
    ),
    "zenith.gelu_vjp": Declaration("... f, f, ... f -> ... f", _ELEMENTWISE, _FORMULA, _NONE),
    "zenith.silu": Declaration(
        "... f, f -> ... f",
        _ELEMENTWISE,
        "zenith.silu_vjp",
        "Sigmoid-13 and Mul-14, or Swish-24; Add-14 for a bias",
    ),
    "zenith.silu_vjp": Declaration("... f, f, ... f -> ... f", _ELEMENTWISE, _FORMULA, _NONE),
    "zenith.swiglu": Declaration(
        "... f, ... f, f, f -> ... f",
        "every one; not f where gate and up are halves of one operand",
        "zenith.swiglu_vjp",
        "the operators of its activation and Mul-14; Split-13 for halves, Add-14 for biases",
    ),
    "zenith.swiglu_vjp": Declaration(
        "... f, ... f, f, f, ... f -> ... f, ... f",
        "every one; not f where gate and up are halves of one operand",
        _FORMULA,
        _NONE,
    ),
    "zenith.softmax": Declaration("... s -> ... s", "...", "zenith.softmax_vjp", "Softmax-13; Mul-14 for a scale"),
    "zenith.softmax_vjp": Declaration("... s, ... s -> ... s", "...", _FORMULA, _NONE),
    "zenith.log_softmax": Declaration(
        "... s -> ... s", "...", "zenith.log_softmax_vjp", "LogSoftmax-13; Mul-14 for a scale"
    ),
    "zenith.log_softmax_vjp": Declaration("... s, ... s -> ... s", "...", _FORMULA, _NONE),
    "zenith.cross_entropy": Declaration(
        "... V, ... -> ..., ..., ...",
        "...",
        "zenith.cross_entropy_vjp",
        "LogSoftmax-13 and GatherElements-13, where there is no z-loss",
    ),
    "zenith.cross_entropy_vjp": Declaration("... V, ..., ..., ..., ..., ... -> ... V, ...", "...", _FORMULA, _NONE),
    "zenith.rotary": Declaration(
        "b t h d, b t h r, b t h r -> b t h d",
        "b, t, h",
        "zenith.rotary_vjp",
        "RotaryEmbedding-23, where the tables do not differ over heads",
    ),
    "zenith.rotary_vjp": Declaration("b t h d, b t h r, b t h r -> b t h d", "b, t, h", _FORMULA, _NONE),
    "zenith.matmul": Declaration(
        "p m k, p k n, p m n -> p m n",
        "p, m, n",
        "zenith.matmul of the cotangent and the other operand, and the gradients of the steps",
        "MatMul-13; Add-14, Mul-14, Relu-14, Tanh-13, Sigmoid-13, Gelu-20, Cast-13 for the steps",
    ),
}
