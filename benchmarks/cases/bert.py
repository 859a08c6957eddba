"""A whole model: the encoder of BERT-base (Devlin et al. 2018), twelve layers, with a padding mask, in plain jnp.

In bfloat16 the parameters stay float32 and the products, as in Flax with dtype=bfloat16, take both sides in bfloat16.
"""

from __future__ import annotations

from typing import Any

from cases.attention import through_the_passes
from cases.case import Case, Family, Input, Program

LAYERS, WIDTH, HEADS, HIDDEN = 12, 768, 12, 3072
_SHAPES = {
    "qkv": (3, WIDTH, WIDTH), "qkv_bias": (3, WIDTH), "out": (WIDTH, WIDTH), "out_bias": (WIDTH,),
    "up": (WIDTH, HIDDEN), "up_bias": (HIDDEN,), "down": (HIDDEN, WIDTH), "down_bias": (WIDTH,),
    "scale1": (WIDTH,), "shift1": (WIDTH,), "scale2": (WIDTH,), "shift2": (WIDTH,),
}  # fmt: skip


def _cases() -> list[Case]:
    return [Case.of("bert-base", dtype, B=8, S=seq) for dtype in ("float32", "bfloat16") for seq in (128, 512)]


def _inputs(case: Case) -> list[Input]:
    """The hidden states, the lengths of the sequences, and each layer's parameters, float32 always."""
    parameters = [Input(shape, "float32", scale=0.02) for shape in _SHAPES.values()] * LAYERS
    return [Input((case["B"], case["S"], WIDTH)), Input((case["B"],), high=case["S"]), *parameters]


def _encoder(case: Case) -> Program:
    import jax
    import jax.numpy as jnp

    def dense(x: jax.Array, weight: jax.Array, bias: jax.Array) -> jax.Array:
        return x @ weight.astype(x.dtype) + bias.astype(x.dtype)

    def norm(x: jax.Array, scale: jax.Array, shift: jax.Array) -> jax.Array:
        wide = x.astype(jnp.float32)
        mean = wide.mean(-1, keepdims=True)
        variance = jnp.square(wide - mean).mean(-1, keepdims=True)
        return ((wide - mean) * jax.lax.rsqrt(variance + 1e-12) * (1 + scale) + shift).astype(x.dtype)

    def attend(x: jax.Array, mask: jax.Array, p: dict[str, jax.Array]) -> jax.Array:
        batch, seq, _ = x.shape
        q, k, v = (dense(x, p["qkv"][i], p["qkv_bias"][i]).reshape(batch, seq, HEADS, -1) for i in range(3))
        logits = jnp.einsum("bthd,bshd->bhts", q, k) * (WIDTH // HEADS) ** -0.5
        logits = jnp.where(mask[:, None, None, :], logits.astype(jnp.float32), -1e9)
        out = jnp.einsum("bhts,bshd->bthd", jax.nn.softmax(logits).astype(v.dtype), v)
        return dense(out.reshape(x.shape), p["out"], p["out_bias"])

    def encoder(x: jax.Array, lengths: jax.Array, *parameters: jax.Array) -> jax.Array:
        mask = jnp.arange(x.shape[1]) <= lengths[:, None]
        for layer in range(LAYERS):
            own = parameters[layer * len(_SHAPES) : (layer + 1) * len(_SHAPES)]
            p = dict(zip(_SHAPES, own, strict=True))
            x = norm(x + attend(x, mask, p), p["scale1"], p["shift1"])
            hidden = jax.nn.gelu(dense(x, p["up"], p["up_bias"]), approximate=False)
            x = norm(x + dense(hidden, p["down"], p["down_bias"]), p["scale2"], p["shift2"])
        return x

    return encoder


def _module() -> Any:
    """The same layers in torch, with weights of its own."""
    import torch

    layer = torch.nn.TransformerEncoderLayer(
        WIDTH, HEADS, HIDDEN, dropout=0.0, activation=torch.nn.functional.gelu, batch_first=True
    )
    return torch.nn.TransformerEncoder(layer, LAYERS, enable_nested_tensor=False).eval()


def _torch(case: Case) -> Program:
    import torch

    module = _module().to(getattr(torch, case.dtype))

    def encoder(x: Any, lengths: Any, *_: Any) -> Any:
        padding = torch.arange(x.shape[1]) > lengths[:, None]
        with torch.inference_mode():
            return module(x, src_key_padding_mask=padding)

    return encoder


def _onnx(case: Case) -> Any:
    import io

    import onnx
    import torch

    if case.dtype != "float32":
        return None

    class Encoder(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.module = _module()

        def forward(self, x: Any, padding: Any) -> Any:
            return self.module(x, src_key_padding_mask=padding)

    torch.backends.mha.set_fastpath_enabled(False)
    shape = (case["B"], case["S"])
    file = io.BytesIO()
    example = torch.zeros(*shape, WIDTH), torch.zeros(*shape, dtype=torch.bool)
    torch.onnx.export(Encoder().eval(), example, file, input_names=["x", "padding"], dynamo=False)
    return onnx.load_from_string(file.getvalue())


def _onnx_inputs(case: Case, arrays: list[Any]) -> list[Any]:
    import numpy as np

    x, lengths = arrays[:2]
    return [x, np.arange(case["S"]) > lengths[:, None]]


def _flops(case: Case) -> float:
    tokens = case["B"] * case["S"]
    return 2.0 * LAYERS * tokens * (4 * WIDTH**2 + 2 * WIDTH * HIDDEN + 2 * case["S"] * WIDTH)


FAMILIES = [
    Family(
        "bert-base",
        _cases(),
        _inputs,
        _encoder,
        through_the_passes(_encoder),
        _torch,
        _onnx,
        onnx_inputs=_onnx_inputs,
        flops=_flops,
    )
]
