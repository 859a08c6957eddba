"""zenith.layer_norm, zenith.rms_norm and their gradients on CPU: what the kernels take, and the calls for them."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from zenith_mlir.dialects.implementation import Implementation, Refusal, Request
from zenith_mlir.dialects.norm import NormSpec, NormVjpSpec
from zenith_mlir.kernels.cpu.floats import LIMITS, refuse_other_types
from zenith_mlir.kernels.cpu.row_work import work

if TYPE_CHECKING:
    import jax


def refuse(request: Request) -> Refusal | None:
    """The types."""
    return refuse_other_types((*request.operands, *request.results))


def build(request: Request) -> Callable[..., Any]:
    """The call of the kernel, for which the normalised axes are one. It returns out, or out and the sum."""
    from zenith_mlir.kernels.cpu.norm import norm_call

    spec: NormSpec = request.spec

    def norm(*operands: jax.Array) -> Any:
        named = {name: _flat(spec, operand) for name, operand in spec.named(operands).items()}
        results = norm_call(
            **named,
            centred=spec.CENTRED,
            epsilon=spec.epsilon,
            offset=spec.offset,
            out_dtype=request.results[0].dtype,
            sum_dtype=request.results[-1].dtype,
        )
        return tuple(found.reshape(want.shape) for found, want in zip(results, request.results, strict=True))

    return norm


def build_vjp(request: Request) -> Callable[..., Any]:
    """The call of the kernel, for which the normalised axes are one."""
    from zenith_mlir.kernels.cpu.norm import norm_vjp_call

    spec: NormVjpSpec = request.spec
    dtypes: dict[str, Any] = {
        f"{name}_dtype": want.dtype for name, want in zip(spec.result_names, request.results, strict=True)
    }

    def norm_vjp(*operands: jax.Array) -> Any:
        named = {name: _flat(spec, operand) for name, operand in spec.named(operands).items()}
        results = norm_vjp_call(**named, **dtypes, centred=spec.CENTRED, epsilon=spec.epsilon, offset=spec.offset)
        return tuple(found.reshape(want.shape) for found, want in zip(results, request.results, strict=True))

    return norm_vjp


def _flat(spec: NormSpec, operand: jax.Array) -> jax.Array:
    """`operand` with its normalised axes as one."""
    leading, normalised = operand.shape[: -spec.axes], operand.shape[-spec.axes :]
    return operand.reshape((*leading, math.prod(normalised)))


IMPLEMENTATION = Implementation("cpu-norm", "cpu", refuse, build, work=work, limits=LIMITS)
VJP_IMPLEMENTATION = Implementation("cpu-norm-vjp", "cpu", refuse, build_vjp, work=work, limits=LIMITS)
