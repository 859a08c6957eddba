"""zenith.attention_vjp on CUDA through the backward pass of cuDNN's flash attention."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from zenith_mlir.dialects.attention_vjp import AttentionVjpSpec, Gradient
from zenith_mlir.dialects.implementation import Implementation, Refusal, Request
from zenith_mlir.ir import cudnn
from zenith_mlir.kernels.gpu import cudnn_limits as limits
from zenith_mlir.kernels.gpu.cudnn_attention import (
    arranged,
    arrangement_of,
    call_of,
    program_of,
    refuse_program,
    restored,
    rows_of_results,
    sequence_axis,
)
from zenith_mlir.kernels.gpu.cudnn_bias import Modifiers, type_of_bias
from zenith_mlir.kernels.gpu.cudnn_layout import Arrangement
from zenith_mlir.kernels.gpu.cudnn_program import fills_hidden_rows

if TYPE_CHECKING:
    import jax


def refuse(request: Request) -> Refusal | None:
    """Limits first (target, types, head size, steps, what has a gradient), then worth."""
    spec: AttentionVjpSpec = request.spec
    attention = spec.attention
    return (
        limits.refuse_target(request.target)
        or _refuse_types(request)
        or limits.refuse_features(attention, request.target, backward=True)
        or refuse_program(attention, request)
        or _refuse_bias(request)
        or limits.refuse_worth(attention, request)
    )


def _refuse_types(request: Request) -> Refusal | None:
    """Queries, keys, values, result and cotangent have one type; every gradient has that of its role."""
    spec: AttentionVjpSpec = request.spec
    roles, residuals, cotangent = spec.split(request.operands)
    for gradient, result in zip(spec.gradients, request.results, strict=True):
        if result.dtype != roles[gradient.role].dtype:
            wanted = roles[gradient.role].dtype.name
            return Refusal(f"cuDNN gives the gradient of role {gradient.role} in {wanted}, not {result.dtype.name}")
    return limits.refuse_types([*roles[:3], *residuals[:1], cotangent])


def _refuse_bias(request: Request) -> Refusal | None:
    spec: AttentionVjpSpec = request.spec
    attention = spec.attention
    program, rows, columns = program_of(attention), attention.size("t"), attention.size("s")
    if program.bias is not None:
        roles, _, _ = spec.split(request.operands)
        queries, added = roles[0].dtype, roles[program.bias].dtype
        given = type_of_bias(queries, added, hides=program.bias_hides(rows, columns))
        if all(gradient.role != program.bias for gradient in spec.gradients):
            # cuDNN's log-sum-exp cannot hold the weights of a row whose bias is -1e9 throughout; a bias that learns
            # has no such rows, one that does not may be a mask.
            return Refusal(
                "a bias without a gradient may be a mask that hides whole rows, which cuDNN's backward pass gets wrong",
                "mask with jnp.where and a boolean mask",
            )
        if given != queries:  # seen on an H100 with cuDNN 9.19 and jax 0.11.2; the other gradients are right
            return Refusal(
                f"the gradient of a bias that cuDNN reads as {given.name} comes out wrong", f"use a {queries.name} bias"
            )
    return limits.refuse_backward_shape(rows, columns, biased=program.needs_bias(rows, columns))


def build(request: Request) -> Callable[..., Any]:
    """The gradients from given results and row statistics; without residuals the forward call is made first."""
    spec: AttentionVjpSpec = request.spec
    attention = spec.attention
    arrangement, program = arrangement_of(attention, _kept_apart(spec)), program_of(attention)
    call = call_of(program, arrangement)
    biases = [gradient for gradient in spec.gradients if gradient.role == program.bias]
    kept = frozenset(axis for gradient in biases for axis in gradient.layout.axes)

    def attention_vjp(*operands: jax.Array) -> list[jax.Array]:
        roles, residuals, cotangent = spec.split(operands)
        modifiers = Modifiers(program, arrangement, roles, kept)
        q, k, v = arranged(arrangement, roles)
        bias = modifiers.bias()
        if residuals:
            out, lse = _forward(spec, arrangement, residuals)
        else:
            out, lse = cudnn.forward(call, q, k, v, bias, log_sum_exp=True)
        given = arrangement.arrange(cotangent, spec.cotangent, arrangement.results())
        if fills_hidden_rows(program):
            given, lse, share = _without_hidden_rows(given, lse, modifiers)
        dq, dk, dv, *dbias = cudnn.backward(call, q, k, v, bias, lse, out, given, bias_gradient=bool(biases))
        if fills_hidden_rows(program):
            dv = (dv.astype(np.float32) + share).astype(dv.dtype)
        values = (dq, dk, dv, *dbias)
        dims = (arrangement.queries(), arrangement.keys(), arrangement.values(), modifiers.dims)

        def result(gradient: Gradient, dtype: Any) -> jax.Array:
            which = min(gradient.role, 3)  # the bias is one role of 3 and above, the others are masks
            value, own = values[which], dims[which]
            return restored(arrangement, value, own, gradient.layout, gradient.factor, dtype)

        return [result(g, tensor.dtype) for g, tensor in zip(spec.gradients, request.results, strict=True)]

    return attention_vjp


def _kept_apart(spec: AttentionVjpSpec) -> list[str]:
    """Axes of the queries alone for which gradients of keys or values are asked for one by one. cuDNN adds the
    gradients of a group, so keys and values are repeated for those.
    """
    return [axis for gradient in spec.gradients if gradient.role in (1, 2) for axis in gradient.layout.axes]


def _forward(
    spec: AttentionVjpSpec, arrangement: Arrangement, residuals: Sequence[jax.Array]
) -> tuple[jax.Array, jax.Array]:
    """Result and log-sum-exp out of result, maximum and sum."""
    import jax.numpy as jnp

    attention = spec.attention
    out, maximum, total = residuals
    lse = maximum.astype(np.float32) + jnp.log(total.astype(np.float32))
    rows = arrangement.row_statistics()
    return (
        arrangement.arrange(out, attention.out, arrangement.results()),
        arrangement.arrange(lse, attention.rows, rows),
    )


def _without_hidden_rows(
    cotangent: jax.Array, lse: jax.Array, modifiers: Modifiers
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """The rows that masks hide as a whole taken out of the call: a cotangent of zero, and a log-sum-exp of 0, with
    which their weights are 0; and what they add to the gradient of every value, 1 / S of their cotangents.
    """
    import jax.numpy as jnp

    arrangement = modifiers.arrangement
    hidden = modifiers.hidden_rows()
    wide, zero = rows_of_results(hidden, arrangement), cotangent.dtype.type(0)
    lost = jnp.where(wide, cotangent, zero).astype(np.float32)
    share = lost.sum(axis=sequence_axis(arrangement), keepdims=True) / np.float32(arrangement.spec.size("s"))
    return jnp.where(wide, zero, cotangent), jnp.where(hidden, np.float32(0), lse), _sum_groups(share, arrangement)


def _sum_groups(value: jax.Array, arrangement: Arrangement) -> jax.Array:
    """What has the heads of queries, added up for those of keys."""
    axis = 3 - sequence_axis(arrangement)
    heads, groups = arrangement.shape([arrangement.heads, arrangement.groups])
    shape = value.shape
    return value.reshape(*shape[:axis], heads, groups, *shape[axis + 1 :]).sum(axis=axis + 1)


IMPLEMENTATION = Implementation("cudnn-vjp", "cuda", refuse, build, limits=limits.BACKWARD_LIMITS)
