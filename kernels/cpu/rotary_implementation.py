"""zenith.rotary and its gradient on CPU: what the kernel takes, and the call for it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from zenith_mlir.dialects.implementation import Implementation, Refusal, Request
from zenith_mlir.dialects.rotary import RotarySpec
from zenith_mlir.kernels.cpu.floats import LIMITS, refuse_other_types
from zenith_mlir.kernels.cpu.row_work import work

if TYPE_CHECKING:
    import jax

_MAX_AXES = 8


def refuse(request: Request) -> Refusal | None:
    return _refuse(request.spec, request)


def refuse_vjp(request: Request) -> Refusal | None:
    return _refuse(_turned(request.spec), request)


def _turned(spec: RotarySpec) -> RotarySpec:
    """The gradient takes what is laid out as the result, and gives what is laid out as x."""
    return replace(spec, x=spec.result, out=spec.x)


def _refuse(spec: RotarySpec, request: Request) -> Refusal | None:
    tensors = (*request.operands, *request.results)
    try:
        spec.verify([tensor.shape for tensor in tensors])
    except ValueError as error:
        return Refusal(str(error))
    if len(spec.shared) > _MAX_AXES:
        return Refusal(f"x has {len(spec.shared)} axes besides its features, the kernel takes {_MAX_AXES}")
    x, cos, sin, out = tensors
    if out.dtype != x.dtype or sin.dtype != cos.dtype:
        return Refusal("x and the result, or cos and sin, have different types")
    return refuse_other_types(tensors)


def _build(spec: RotarySpec, transposed: bool) -> Callable[..., Any]:
    from zenith_mlir.kernels.cpu.rotary import rotary_call

    table = spec.table.strides_over(spec.shared, spec.axes)
    arguments: dict[str, Any] = {
        "dims": [spec.axes[axis] for axis in spec.shared],
        "rotated": spec.rotated,
        "x_strides": spec.x.strides_over(spec.shared, spec.axes),
        "cos_strides": table,
        "sin_strides": table,
        "out_strides": spec.result.strides_over(spec.shared, spec.axes),
        "out_shape": spec.result.shape(spec.axes),
        "interleaved": spec.pairing == "interleaved",
        "transposed": transposed,
    }

    def rotary(x: jax.Array, cos: jax.Array, sin: jax.Array) -> jax.Array:
        return rotary_call(x, cos, sin, **arguments)

    return rotary


def build(request: Request) -> Callable[..., Any]:
    """The call of the kernel: the tables are read in place, repeated by strides of 0."""
    return _build(request.spec, transposed=False)


def build_vjp(request: Request) -> Callable[..., Any]:
    return _build(_turned(request.spec), transposed=True)


_LIMITS = f"{LIMITS}; cos and sin of one type; x of up to {_MAX_AXES} axes besides its features"
IMPLEMENTATION = Implementation("cpu-rotary", "cpu", refuse, build, work=work, limits=_LIMITS)
VJP_IMPLEMENTATION = Implementation("cpu-rotary-vjp", "cpu", refuse_vjp, build_vjp, work=work, limits=_LIMITS)
