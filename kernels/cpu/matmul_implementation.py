"""zenith.matmul on CPU: what the kernel takes, and the call for it."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from zenith_mlir.dialects.implementation import Implementation, Refusal, Request
from zenith_mlir.dialects.matmul import MatmulSpec, Step
from zenith_mlir.kernels.cpu.floats import LIMITS, refuse_other_types
from zenith_mlir.kernels.cpu.matmul_work import work

if TYPE_CHECKING:
    import jax

    from zenith_mlir.kernels.cpu import matmul as kernel

_MAX_AXES = 8


def refuse(request: Request) -> Refusal | None:
    """Limits (types, axes), and products of float32, where XLA's own are as fast."""
    spec: MatmulSpec = request.spec
    refusal = refuse_other_types((*request.operands, *request.results))
    if refusal is not None:
        return refusal
    for axes in (spec.parallel, spec.rows, spec.columns, spec.contracted):
        if len(axes) > _MAX_AXES:
            return Refusal(f"the CPU kernel takes indices of up to {_MAX_AXES} axes, not {len(axes)}")
    if all(tensor.dtype.name == "float32" for tensor in spec.roles(request.operands)[:2]):
        return Refusal("products of float32 are left to XLA, which is as fast")
    return None


def build(request: Request) -> Callable[..., Any]:
    """The call of the kernel: operands are read in place through strides, whatever their layout."""
    from zenith_mlir.kernels.cpu.matmul import matmul_call

    spec: MatmulSpec = request.spec
    out = request.results[0]
    p, m, n, k = spec.parallel, spec.rows, spec.columns, spec.contracted
    arguments: dict[str, Any] = {
        **{name: [spec.axes[axis] for axis in axes] for name, axes in {"p": p, "m": m, "n": n, "k": k}.items()},
        "lhs_strides": spec.lhs.strides_over((*p, *m, *k), spec.axes),
        "rhs_strides": spec.rhs.strides_over((*p, *k, *n), spec.axes),
        "out_strides": spec.out.strides_over((*p, *m, *n), spec.axes),
        "mod_strides": [layout.strides_over((*p, *m, *n), spec.axes) for layout in spec.modifiers],
        "steps": [_encode(step) for step in spec.steps],
        "out_shape": out.shape,
        "out_dtype": out.dtype,
    }

    def matmul(*operands: jax.Array) -> Any:
        lhs, rhs, *modifiers = spec.roles(operands)
        return matmul_call(lhs, rhs, modifiers, **arguments)

    return matmul


_OPCODES = {"multiply": "MUL", "bfloat16": "TO_BF16", "float16": "TO_F16"}


def _encode(step: Step) -> kernel.Step:
    """`step` as the kernel takes it."""
    from zenith_mlir.kernels.cpu import matmul as kernel

    kind = step.dtype or step.kind
    op = kernel.Opcode[_OPCODES.get(kind, kind.upper())]
    return kernel.Step(op, step.value or 0.0, -1 if step.operand is None else step.operand - 2)


_LIMITS = f"{LIMITS}, not both factors of float32; up to {_MAX_AXES} axes of a kind"
IMPLEMENTATION = Implementation("cpu-matmul", "cpu", refuse, build, work=work, limits=_LIMITS)
