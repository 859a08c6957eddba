"""`attention`, the op zenith.attention."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from zenith_mlir.dialects import attention as dialect
from zenith_mlir.dialects import attention_vjp as dialect_vjp
from zenith_mlir.dialects.attention import AttentionSpec, Step
from zenith_mlir.dialects.attention_vjp import AttentionVjpSpec, Gradient
from zenith_mlir.dialects.layout import Layout
from zenith_mlir.ops import primitive
from zenith_mlir.ops.arguments import booleans, describe, floating, present
from zenith_mlir.ops.attention_layouts import OP, band, inside, layouts_of, of_logits, rounded
from zenith_mlir.ops.batching import before, fresh, moved, size_of, widened
from zenith_mlir.ops.primitive import Dims, Operation, bind, define


def _formula(*operands: Any, spec: AttentionSpec) -> tuple[Any, ...]:
    results = dialect.reference(spec, *operands, exact=False)
    return results if spec.residuals else (results,)


def _formula_vjp(*operands: Any, spec: AttentionVjpSpec) -> tuple[Any, ...]:
    return tuple(dialect_vjp.reference(spec, *operands, exact=False))


# ---- vmap ----


def _wider(spec: AttentionSpec, name: str, size: int, has: Sequence[bool]) -> AttentionSpec:
    """`spec` with one more axis in front of the operands that have it, and of the result."""
    q, k, v, *modifiers = (before(name, layout, of) for layout, of in zip(spec.role_layouts, has, strict=True))
    axes = widened(spec.axes, name, size)
    return replace(spec, axes=axes, q=q, k=k, v=v, modifiers=tuple(modifiers), out=before(name, spec.out))


def _batched(spec: AttentionSpec, operands: Sequence[Any], dims: Dims) -> tuple[Any, list[Any], list[int]]:
    size, name = size_of(operands, dims), fresh(spec.axes)
    has = [dim is not None for dim in dims]
    wider = _wider(spec, name, size, has)
    arranged = [moved(x, dim, size) if of else x for x, dim, of in zip(operands, dims, has, strict=True)]
    rows = wider.rows.axes.index(name)
    return wider, arranged, [0, rows, rows] if spec.residuals else [0]


def _batched_vjp(spec: AttentionVjpSpec, operands: Sequence[Any], dims: Dims) -> tuple[Any, list[Any], list[int]]:
    """Results of the forward have the axis always, as the forward with it has them."""
    size, name = size_of(operands, dims), fresh(spec.attention.axes)
    count = len(spec.attention.sources)
    has = [dim is not None for dim in dims]
    attention = _wider(spec.attention, name, size, has[:count])
    rows = attention.rows.axes.index(name)
    places = [0] * count + ([0, rows, rows] if spec.residuals else []) + [0]
    gets = has[:count] + [True] * (len(has) - count - 1) + has[-1:]
    arranged = [
        moved(x, dim, size, to) if get else x for x, dim, to, get in zip(operands, dims, places, gets, strict=True)
    ]
    gradients = tuple(replace(gradient, layout=before(name, gradient.layout)) for gradient in spec.gradients)
    wider = AttentionVjpSpec(attention, before(name, spec.cotangent, has[-1]), gradients)
    return wider, arranged, [0] * len(gradients)


# ---- Derivatives ----


def _keep(spec: AttentionSpec) -> AttentionSpec:
    return replace(spec, residuals=True)


def _pull(
    spec: AttentionSpec,
    operands: Sequence[Any],
    results: Sequence[Any],
    cotangents: Sequence[Any],
    wanted: Sequence[int],
) -> Any:
    gradients = tuple(Gradient(role, spec.role_layouts[role]) for role in wanted)
    asked = AttentionVjpSpec(spec, spec.out, gradients)
    return bind(_vjp_p, asked, *operands, *results, cotangents[0])


_vjp_p = define(Operation(dialect_vjp.NAME, _formula_vjp, AttentionVjpSpec.attributes, _batched_vjp))
_gradient = primitive.Gradient(keep=_keep, results=lambda spec: 1, pull=_pull)
attention_p = define(Operation(dialect.NAME, _formula, AttentionSpec.attributes, _batched, _gradient))


# ---- The function ----


def attention(
    query: ArrayLike,
    key: ArrayLike,
    value: ArrayLike,
    bias: ArrayLike | None = None,
    mask: ArrayLike | None = None,
    *,
    scale: float | None = None,
    is_causal: bool = False,
    query_seq_lengths: ArrayLike | None = None,
    key_value_seq_lengths: ArrayLike | None = None,
    local_window_size: int | tuple[int, int] | None = None,
    logits_soft_cap: float | None = None,
) -> jax.Array:
    r"""Scaled dot-product attention with the arguments of `jax.nn.dot_product_attention`.

    .. math::
      out = \mathrm{softmax}\left(scale \cdot q k^T + bias\right) v

    Logits and their softmax are float32 at least. Elements that are masked get a large negative logit, so in a row that
    is masked as a whole all weights are equal. Differentiated, it keeps the result, and of each row of logits the
    maximum and the sum; not the probabilities.

    Args:
      query: array of shape [B, T, N, H] or [T, N, H].
      key: array of shape [B, S, K, H] or [S, K, H]; N is a multiple of K, and N / K queries share a head.
      value: array of shape [B, S, K, E] or [S, K, E].
      bias: added to the logits; broadcasts to [B, N, T, S] or [N, T, S].
      mask: booleans that broadcast to the same, True where an element takes part.
      scale: factor of the logits; None is 1 / sqrt(H).
      is_causal: queries attend to keys up to their own position only.
      query_seq_lengths: integers [B], the number of queries that count; the rest of the result is 0.
      key_value_seq_lengths: integers [B], the number of keys that count.
      local_window_size: how many keys to the left and to the right of its position a query attends to; one number is
        both.
      logits_soft_cap: c of c tanh(x / c), which replaces the scaled logits x before the bias is added.

    Returns: an array of shape [B, T, N, E] or [T, N, E] and the dtype of value.

    Raises:
      TypeError: if query, key, value or bias are not of floating-point numbers, query, key and value not of one dtype,
        the mask not of booleans or lengths not of integers.
      ValueError: if shapes do not fit.
    """
    q, k, v = floating(OP, query=query, key=key, value=value)
    if not q.dtype == k.dtype == v.dtype:
        raise TypeError(
            f"zenith.ops.attention: query, key and value are {describe(q)}, {describe(k)} and {describe(v)}, expected "
            "one dtype; convert them to the same"
        )
    axes, layouts = layouts_of(q.shape, k.shape, v.shape)
    of_q, of_k, of_v, of_out = layouts
    logits = jnp.promote_types(q.dtype, jnp.float32)
    operands, modifiers, steps = [q, k, v], [], []

    def modifier(array: Any, layout: Layout) -> int:
        operands.append(array)
        modifiers.append(layout)
        return len(operands) - 1

    factor = 1 / math.sqrt(q.shape[-1]) if scale is None else float(scale)
    steps.append(Step("scale", value=rounded(factor, logits)))
    if logits_soft_cap is not None:
        cap = float(logits_soft_cap)
        steps += [
            Step("scale", value=rounded(1 / cap, logits)),
            Step("tanh"),
            Step("scale", value=rounded(cap, logits)),
        ]
    for array in present(OP, bias=bias):
        steps.append(Step("add", operand=modifier(*of_logits("bias", array, axes, layouts))))
    fill = rounded(-0.7 * float(np.finfo(np.float32).max), logits)
    if mask is not None:
        array = booleans(OP, "mask", mask)
        steps.append(Step("select", operand=modifier(*of_logits("mask", array, axes, layouts)), value=fill))
    if key_value_seq_lengths is not None:
        counts = inside("key_value_seq_lengths", key_value_seq_lengths, axes, "s")
        steps.append(Step("select", operand=modifier(counts, Layout((("b",), ("s",)))), value=fill))
    low, high = band(local_window_size, is_causal)
    if low is not None or high is not None:
        steps.append(Step("band", low=low, high=high, value=fill))
    spec = AttentionSpec(axes, of_q, of_k, of_v, of_out, tuple(modifiers), tuple(steps))
    (out,) = bind(attention_p, spec, *operands)
    if query_seq_lengths is None:
        return out
    counts = inside("query_seq_lengths", query_seq_lengths, axes, "t")
    return jnp.where(counts[:, :, None, None], out, 0)
