"""zenith.attention on CPU: what the kernel takes, and the call for it."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from zenith_mlir.dialects.attention import AttentionSpec
from zenith_mlir.dialects.implementation import Implementation, Refusal, Request
from zenith_mlir.kernels.cpu import attention_arguments
from zenith_mlir.kernels.cpu.attention_work import forward_work

if TYPE_CHECKING:
    import jax


def refuse(request: Request) -> Refusal | None:
    """Limits first (types, axes), then worth (escaping probabilities, the user's min-seq)."""
    spec: AttentionSpec = request.spec
    floats = (*spec.roles(request.operands)[:3], request.results[0])
    return attention_arguments.refuse(spec, floats, request.min_seq)


def build(request: Request) -> Callable[..., Any]:
    """The call of the kernel: operands are read in place through strides, whatever their layout.

    The function returns out, or where the spec has residuals out, maximum and sum.
    """
    from zenith_mlir.kernels.cpu.attention import attention_call, attention_residuals_call

    spec: AttentionSpec = request.spec
    out = request.results[0]
    modifiers = attention_arguments.modifiers_of(spec)
    arguments = attention_arguments.arguments(spec) | {"out_shape": out.shape, "out_dtype": out.dtype}

    def attention(*operands: jax.Array) -> Any:
        q, k, v, *_ = roles = spec.roles(operands)
        turned = [modifier.of(roles) for modifier in modifiers]
        if not spec.residuals:
            return attention_call(q, k, v, turned, **arguments)
        result, maximum, total = attention_residuals_call(q, k, v, turned, **arguments)
        rows = spec.rows.shape(spec.axes)
        return result, maximum.reshape(rows), total.reshape(rows)

    return attention


IMPLEMENTATION = Implementation("cpu-flash", "cpu", refuse, build, work=forward_work, limits=attention_arguments.LIMITS)
