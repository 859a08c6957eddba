"""The calls of cuDNN's flash attention that JAX makes, without the devices that JAX asks first.

`jax.nn.dot_product_attention(implementation="cudnn")` looks for a GPU and its cuDNN while it is traced, so it cannot be
lowered for a GPU that is only described; it rounds the log-sum-exp to the dtype of the queries; and its backward pass
cannot be called without its forward pass. The primitives beneath it have none of the three: they are what is bound
here, and XLA sees the same custom calls. They are private to JAX: `test/unit/test_gpu_attention.py` holds them to the
public function on every supported version. The limits that JAX would have checked are stated in
`kernels/gpu/cudnn_limits.py`.
"""

from __future__ import annotations

import functools
import inspect
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import jax


@dataclass(frozen=True)
class Call:
    """What a forward call and its backward call have in common.

    `heads_first`: operands are [batch, heads, sequence, depth], else [batch, sequence, heads, depth]. `causal`: row t
    sees columns up to t. `window`: of those the last so many only.
    """

    scale: float
    heads_first: bool = False
    causal: bool = False
    window: int | None = None


def forward(
    call: Call, q: jax.Array, k: jax.Array, v: jax.Array, bias: jax.Array | None, *, log_sum_exp: bool
) -> list[jax.Array]:
    """softmax(scale q kᵀ + bias) v and, where asked for, the log-sum-exp of the rows of logits.

    q, k, v: float16 or bfloat16 of rank 4, k and v with a divisor of q's heads. bias: float [1 or batch, 1 or heads,
    rows, columns] or None. The result has the shape of q; the log-sum-exp is float32 [batch, heads, rows].
    """
    cudnn = _cudnn()
    operands = [q, k, v, *_optional(q, bias)]
    return list(
        cudnn._dot_product_attention_fwd_p.bind(
            *operands, is_training=log_sum_exp, **_parameters(call, bias is not None, False)
        )
    )


def backward(
    call: Call,
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    bias: jax.Array | None,
    log_sum_exp: jax.Array,
    out: jax.Array,
    cotangent: jax.Array,
    *,
    bias_gradient: bool,
) -> list[jax.Array]:
    """The gradients of q, k, v and, where asked for, bias; shapes as for `forward`, cotangent like out."""
    cudnn = _cudnn()
    operands = [q, k, v, *_optional(q, bias), log_sum_exp, out, cotangent]
    return list(
        cudnn._dot_product_attention_bwd_p.bind(*operands, **_parameters(call, bias is not None, bias_gradient))
    )


def _cudnn() -> Any:
    from jax._src.cudnn import fused_attention_stablehlo

    return fused_attention_stablehlo


def _optional(q: jax.Array, bias: jax.Array | None) -> list[jax.Array]:
    """The bias, then lengths and offsets of queries and of keys and two page tables, none of which is used."""
    import jax.numpy as jnp

    absent = jnp.zeros(0, q.dtype)
    return [absent if bias is None else bias, *[absent] * 6]


def _parameters(call: Call, has_bias: bool, has_bias_gradient: bool) -> dict[str, Any]:
    cudnn = _cudnn()
    mask = cudnn.MaskType.CAUSAL if call.causal else cudnn.MaskType.NO_MASK
    layout = cudnn.AttentionLayout.BNTH if call.heads_first else cudnn.AttentionLayout.BTNH
    return {
        "scale": call.scale,
        "seed": 42,
        "dropout_rate": 0.0,
        "variadic_args": (has_bias, has_bias_gradient),
        "mask_type": mask,
        "layout": layout.value,
        "sliding_window_length": call.window,
        **_newer_parameters(),
    }


@functools.cache
def _newer_parameters() -> dict[str, None]:
    """JAX 0.12 lets a function change the scores; none does here."""
    known = inspect.signature(_cudnn()._dot_product_attention_fwd_impl).parameters
    return {"score_mod_name": None, "score_mod_jaxpr": None} if "score_mod" in known else {}
