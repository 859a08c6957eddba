"""zenith.gelu, zenith.silu and their gradients on CPU: what the kernel takes, and the call for it."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from zenith_mlir.dialects.gelu import GeluSpec
from zenith_mlir.dialects.implementation import Implementation, Refusal, Request
from zenith_mlir.dialects.silu import SiluSpec
from zenith_mlir.kernels.cpu.floats import LIMITS, refuse_other_types
from zenith_mlir.kernels.cpu.row_work import ESCAPES, work

if TYPE_CHECKING:
    import jax


def refuse(request: Request) -> Refusal | None:
    """x [..., f], then a bias [f] if there is one."""
    return _refuse_shapes(request, cotangents=0) or refuse_other_types((*request.operands, *request.results))


def refuse_vjp(request: Request) -> Refusal | None:
    """The same with a cotangent of the shape of x at the end."""
    return _refuse_shapes(request, cotangents=1) or refuse_other_types((*request.operands, *request.results))


def _refuse_shapes(request: Request, cotangents: int) -> Refusal | None:
    spec: GeluSpec | SiluSpec = request.spec
    x = request.operands[0].shape
    expected = [x, *([x[-1:]] if spec.bias else []), *[x] * cotangents, x]
    shapes = [tensor.shape for tensor in (*request.operands, *request.results)]
    if not x:
        return Refusal("x is a scalar")
    if spec.escapes:
        return Refusal(ESCAPES)
    return None if shapes == expected else Refusal(f"operands and result have shapes {shapes}, expected {expected}")


def build(request: Request) -> Callable[..., Any]:
    from zenith_mlir.kernels.cpu.activation import Kind, activation_call

    spec: GeluSpec | SiluSpec = request.spec

    def activation(x: jax.Array, *bias: jax.Array) -> jax.Array:
        kind = Kind[spec.activation.upper()]
        return activation_call(x, *bias, kind=kind, slope=spec.slope, dtype=request.results[0].dtype)

    return activation


def build_vjp(request: Request) -> Callable[..., Any]:
    from zenith_mlir.kernels.cpu.activation import Kind, activation_vjp_call

    spec: GeluSpec | SiluSpec = request.spec

    def activation_vjp(x: jax.Array, *rest: jax.Array) -> jax.Array:
        *bias, cotangent = rest
        kind = Kind[spec.activation.upper()]
        return activation_vjp_call(x, cotangent, *bias, kind=kind, slope=spec.slope, dtype=request.results[0].dtype)

    return activation_vjp


_LIMITS = f"{LIMITS}; x is no scalar; no values inside that others use"
IMPLEMENTATION = Implementation("cpu-activation", "cpu", refuse, build, work=work, limits=_LIMITS)
VJP_IMPLEMENTATION = Implementation("cpu-activation-vjp", "cpu", refuse_vjp, build_vjp, work=work, limits=_LIMITS)
