"""zenith.swiglu and its gradients on CPU: what the kernel takes, and the call for it."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from zenith_mlir.dialects.implementation import Implementation, Refusal, Request
from zenith_mlir.dialects.swiglu import SwigluSpec
from zenith_mlir.kernels.cpu.floats import LIMITS, refuse_other_types
from zenith_mlir.kernels.cpu.row_work import ESCAPES, work

if TYPE_CHECKING:
    import jax

Shape = tuple[int, ...]


def refuse(request: Request) -> Refusal | None:
    """Gate and up, or both in one, then the biases if there are any."""
    return _refuse_shapes(request, [request.results[0].shape], lambda operands, out: (*operands, out))


def refuse_vjp(request: Request) -> Refusal | None:
    """The same, then the cotangent; a gradient for gate and up, or for both in one."""
    cotangent = request.operands[-1].shape
    count = 2 if request.spec.halves == "none" else 1
    return _refuse_shapes(request, [cotangent], lambda operands, out: (*operands, out, *operands[:count]))


def _refuse_shapes(
    request: Request, out: list[Shape], all_shapes: Callable[[list[Shape], Shape], tuple[Shape, ...]]
) -> Refusal | None:
    spec: SwigluSpec = request.spec
    (shape,) = out
    if not shape:
        return Refusal("the result is a scalar")
    if spec.escapes:
        return Refusal(ESCAPES)
    *rows, features = shape
    widths = [features, features] if spec.halves == "none" else [2 * features]
    operands = [(*rows, width) for width in widths]
    operands += [(width,) for width in widths] if spec.bias else []
    expected = list(all_shapes(operands, shape))
    shapes = [tensor.shape for tensor in (*request.operands, *request.results)]
    if shapes != expected:
        return Refusal(f"operands and results have shapes {shapes}, expected {expected}")
    return refuse_other_types((*request.operands, *request.results))


def _arguments(spec: SwigluSpec, features: int) -> dict[str, Any]:
    """Where the kernel finds gate and up and their biases."""
    from zenith_mlir.kernels.cpu.activation import Kind
    from zenith_mlir.kernels.cpu.swiglu import NONE, Columns

    if spec.halves == "none":
        gate, up = Columns(0), Columns(1)
        biases = (Columns(2), Columns(3))
    else:
        offsets = (0, features) if spec.halves == "gate_first" else (features, 0)
        gate, up = (Columns(0, offset) for offset in offsets)
        biases = (Columns(1, offsets[0]), Columns(1, offsets[1]))
    gate_bias, up_bias = biases if spec.bias else (NONE, NONE)
    return {
        "gate": gate,
        "up": up,
        "gate_bias": gate_bias,
        "up_bias": up_bias,
        "kind": Kind[spec.activation.upper()],
        "slope": spec.slope,
    }


def build(request: Request) -> Callable[..., Any]:
    """The call of the kernel: halves of an operand are read in place."""
    from zenith_mlir.kernels.cpu.swiglu import swiglu_call

    (result,) = request.results
    features = result.shape[-1]
    arguments = _arguments(request.spec, features)

    def swiglu(*operands: jax.Array) -> jax.Array:
        return swiglu_call(operands, **arguments, features=features, dtype=result.dtype)

    return swiglu


def build_vjp(request: Request) -> Callable[..., Any]:
    """The call of the kernel: halves of a gradient are written in place."""
    from zenith_mlir.kernels.cpu.swiglu import swiglu_vjp_call

    arguments = _arguments(request.spec, request.operands[-1].shape[-1])
    dtypes = [result.dtype for result in request.results]

    def swiglu_vjp(*operands: jax.Array) -> Any:
        gradients = swiglu_vjp_call(operands[:-1], operands[-1], **arguments, dtypes=dtypes)
        return gradients[0] if len(gradients) == 1 else gradients

    return swiglu_vjp


_LIMITS = f"{LIMITS}; the result is no scalar; no values inside that others use"
IMPLEMENTATION = Implementation("cpu-swiglu", "cpu", refuse, build, work=work, limits=_LIMITS)
VJP_IMPLEMENTATION = Implementation("cpu-swiglu-vjp", "cpu", refuse_vjp, build_vjp, work=work, limits=_LIMITS)
