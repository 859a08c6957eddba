"""zenith.softmax, zenith.log_softmax and their gradients on CPU: what the kernels take, and the calls for them."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from zenith_mlir.dialects.implementation import Implementation, Refusal, Request
from zenith_mlir.kernels.cpu.floats import LIMITS, refuse_other_types
from zenith_mlir.kernels.cpu.row_work import work

if TYPE_CHECKING:
    import jax


def refuse(request: Request) -> Refusal | None:
    """The types."""
    return refuse_other_types((*request.operands, *request.results))


def build(log: bool) -> Callable[[Request], Callable[..., Any]]:
    """The call of the kernel."""

    def of(request: Request) -> Callable[..., Any]:
        from zenith_mlir.kernels.cpu.softmax import softmax_call

        def softmax(x: jax.Array) -> jax.Array:
            return softmax_call(x, log=log, scale=request.spec.scale, out_dtype=request.results[0].dtype)

        return softmax

    return of


def build_vjp(log: bool) -> Callable[[Request], Callable[..., Any]]:
    """The call of the kernel."""

    def of(request: Request) -> Callable[..., Any]:
        from zenith_mlir.kernels.cpu.softmax import softmax_vjp_call

        def softmax_vjp(y: jax.Array, cotangent: jax.Array) -> jax.Array:
            dtype = request.results[0].dtype
            return softmax_vjp_call(y, cotangent, log=log, scale=request.spec.scale, dx_dtype=dtype)

        return softmax_vjp

    return of


SOFTMAX = Implementation("cpu-softmax", "cpu", refuse, build(log=False), work=work, limits=LIMITS)
LOG_SOFTMAX = Implementation("cpu-log-softmax", "cpu", refuse, build(log=True), work=work, limits=LIMITS)
SOFTMAX_VJP = Implementation("cpu-softmax-vjp", "cpu", refuse, build_vjp(log=False), work=work, limits=LIMITS)
LOG_SOFTMAX_VJP = Implementation("cpu-log-softmax-vjp", "cpu", refuse, build_vjp(log=True), work=work, limits=LIMITS)
