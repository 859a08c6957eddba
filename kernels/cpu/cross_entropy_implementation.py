"""zenith.cross_entropy and its gradient on CPU: what the kernels take, and the calls for them."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from zenith_mlir.dialects.cross_entropy import CrossEntropySpec
from zenith_mlir.dialects.cross_entropy_vjp import CrossEntropyVjpSpec
from zenith_mlir.dialects.implementation import Implementation, Refusal, Request
from zenith_mlir.kernels.cpu.floats import FLOATS, refuse_other_types
from zenith_mlir.kernels.cpu.row_work import work

if TYPE_CHECKING:
    import jax


def refuse(request: Request) -> Refusal | None:
    """The types, and rows without logits."""
    logits, labels, *numbers = request.operands
    if labels.dtype.kind not in "iu":
        return Refusal(f"the CPU kernel takes integer labels, not {labels.dtype.name}")
    if logits.shape[-1] == 0:
        return Refusal("the CPU kernel takes rows of at least one logit")
    per_row = [tensor for tensor in (*numbers, *request.results) if tensor.shape == labels.shape]
    for tensor in per_row:
        if tensor.dtype != np.float32:
            return Refusal(f"the CPU kernel takes and returns float32 numbers for each row, not {tensor.dtype.name}")
    return refuse_other_types([logits])


def refuse_vjp(request: Request) -> Refusal | None:
    """The types, and rows without logits."""
    logits, gradient = request.operands[0], request.results[0]
    if gradient.dtype != logits.dtype:
        return Refusal(f"the gradient of {logits.dtype.name} logits is wanted as {gradient.dtype.name}")
    return refuse(request)


def _arguments(spec: CrossEntropySpec) -> dict[str, Any]:
    from zenith_mlir.kernels.cpu.cross_entropy import Outside

    return {
        "smoothing": spec.smoothing,
        "z_loss": spec.z_loss,
        "outside": Outside[spec.outside.upper()],
        "infinity_is_nan": spec.infinity == "nan",
    }


def build(request: Request) -> Callable[..., Any]:
    """The call of the kernel. It returns the loss, or the loss, the maximum and the sum."""
    from zenith_mlir.kernels.cpu.cross_entropy import cross_entropy_call

    spec: CrossEntropySpec = request.spec

    def cross_entropy(logits: jax.Array, labels: jax.Array) -> Any:
        results = cross_entropy_call(logits, labels, **_arguments(spec))
        return tuple(results) if spec.residuals else results.loss

    return cross_entropy


def build_vjp(request: Request) -> Callable[..., Any]:
    """The call of the kernel."""
    from zenith_mlir.kernels.cpu.cross_entropy import cross_entropy_vjp_call

    spec: CrossEntropyVjpSpec = request.spec

    def cross_entropy_vjp(*operands: jax.Array) -> Any:
        named = spec.named(operands)
        return cross_entropy_vjp_call(
            named["logits"],
            named["labels"],
            named["cotangent"],
            named.get("lse_cotangent"),
            (named["maximum"], named["sum"]) if spec.residuals else None,
            loss=spec.loss,
            **_arguments(spec),
        )

    return cross_entropy_vjp


_LIMITS = f"logits of {', '.join(FLOATS)}; integer labels; numbers of a row in float32; at least one class"
IMPLEMENTATION = Implementation("cpu-cross-entropy", "cpu", refuse, build, work=work, limits=_LIMITS)
VJP_IMPLEMENTATION = Implementation("cpu-cross-entropy-vjp", "cpu", refuse_vjp, build_vjp, work=work, limits=_LIMITS)
