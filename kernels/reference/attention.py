"""The mathematics of the attention kernels in numpy float64, the judge of their numerics."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from zenith_mlir.kernels.cpu.attention import Opcode, Step
from zenith_mlir.kernels.cpu.attention_vjp import FIRST_MODIFIER, K, Q, V
from zenith_mlir.kernels.cpu.attention_vjp import Gradient as KernelGradient

Array = npt.NDArray[Any]


def strided(x: Array, extents: Sequence[int], strides: Sequence[int]) -> Array:
    """A view of the row-major array `x` with these extents, strides counted in elements."""
    flat = np.ascontiguousarray(x).reshape(-1)
    return np.lib.stride_tricks.as_strided(
        flat, tuple(extents), tuple(stride * flat.itemsize for stride in strides), writeable=False
    )


def attention(
    q: Array,
    k: Array,
    v: Array,
    modifiers: Sequence[Array] = (),
    *,
    dims: Sequence[int],
    sizes: tuple[int, int, int, int],
    q_strides: Sequence[int],
    k_strides: Sequence[int],
    v_strides: Sequence[int],
    out_strides: Sequence[int],
    mod_strides: Sequence[Sequence[int]] = (),
    steps: Sequence[Step] = (),
    out_shape: Sequence[int],
    dtype: npt.DTypeLike = np.float64,
    probabilities: npt.DTypeLike | None = None,
) -> Array:
    """The plain formula: takes what `zenith_mlir.kernels.cpu.attention.attention_call` takes, but computes in `dtype`.

    With dtype float32 it is the naive program the kernel competes with. Programs in bfloat16 round the probabilities
    before they meet the values, to `probabilities`. With S = 0 the sum over keys is empty and the result 0.
    """
    t, s, d, e = sizes
    q, k, v = (
        strided(x, (*dims, *rows_cols), strides).astype(dtype)
        for x, rows_cols, strides in ((q, (t, d), q_strides), (k, (s, d), k_strides), (v, (s, e), v_strides))
    )
    masks = [strided(m, (*dims, t, s), strides) for m, strides in zip(modifiers, mod_strides, strict=True)]
    with np.errstate(all="ignore"):
        x = q @ np.swapaxes(k, -1, -2)
        for step in (step for step in steps if step.op < Opcode.POST_MUL):
            x = _run(x, step, masks)
        sinks = [masks[step.modifier][..., :1].astype(dtype) for step in steps if step.op == Opcode.SINK]
        x = np.concatenate([x, *sinks], axis=-1)
        x = np.exp(x - x.max(axis=-1, keepdims=True, initial=-np.inf))
        x = (x / x.sum(axis=-1, keepdims=True))[..., :s]
        for step in (step for step in steps if step.op in (Opcode.POST_MUL, Opcode.POST_SELECT)):
            x = _run(x, step, masks)
        if probabilities is not None:
            x = x.astype(probabilities).astype(dtype)
        result = x @ v
    out = np.zeros(tuple(out_shape), dtype)
    bytes_ = [stride * out.itemsize for stride in out_strides]
    np.lib.stride_tricks.as_strided(out.reshape(-1), result.shape, bytes_)[...] = result
    return out


def attention_vjp(
    q: Array,
    k: Array,
    v: Array,
    cotangent: Array,
    modifiers: Sequence[Array] = (),
    *,
    gradients: Sequence[KernelGradient],
    dims: Sequence[int],
    sizes: tuple[int, int, int, int],
    q_strides: Sequence[int],
    k_strides: Sequence[int],
    v_strides: Sequence[int],
    cotangent_strides: Sequence[int],
    mod_strides: Sequence[Sequence[int]] = (),
    steps: Sequence[Step] = (),
    dtype: npt.DTypeLike = np.float64,
    rounded: npt.DTypeLike | None = None,
) -> list[Array]:
    """The gradients of `attention`, by the chain rule from the logits and probabilities that are all kept.

    Takes what `zenith_mlir.kernels.cpu.attention_vjp.attention_vjp_call` takes, without the results of the forward, and
    computes in `dtype`. With `rounded`, what the queries, keys and cotangents are multiplied with is rounded to it: the
    probabilities and the gradient of the logits.
    """
    t, s, d, e = sizes
    q, k, v, do = (
        strided(x, (*dims, *rows_cols), strides).astype(dtype)
        for x, rows_cols, strides in (
            (q, (t, d), q_strides),
            (k, (s, d), k_strides),
            (v, (s, e), v_strides),
            (cotangent, (t, e), cotangent_strides),
        )
    )
    masks = [strided(m, (*dims, t, s), strides) for m, strides in zip(modifiers, mod_strides, strict=True)]
    found: dict[int, Array] = {FIRST_MODIFIER + i: np.zeros((*dims, t, s), dtype) for i in range(len(masks))}

    def forward(x: Array, program: Sequence[Step]) -> tuple[Array, list[Array]]:
        inputs = []
        for step in program:
            inputs.append(x)
            x = _run(x, step, masks)
        return x, inputs

    def backward(dx: Array, program: Sequence[Step], inputs: Sequence[Array]) -> Array:
        for step, x in reversed(list(zip(program, inputs, strict=True))):
            if step.op in (Opcode.ADD, Opcode.MUL, Opcode.POST_MUL):
                found[FIRST_MODIFIER + step.modifier] += dx if step.op == Opcode.ADD else dx * x
            dx = _run_back(dx, x, step, masks)
        return dx

    before = [step for step in steps if step.op < Opcode.POST_MUL]
    after = [step for step in steps if step.op in (Opcode.POST_MUL, Opcode.POST_SELECT)]
    sinks = [step.modifier for step in steps if step.op == Opcode.SINK]
    with np.errstate(all="ignore"):
        x, logits = forward(q @ np.swapaxes(k, -1, -2), before)
        x = np.concatenate([x, *(masks[sink][..., :1].astype(dtype) for sink in sinks)], axis=-1)
        x = np.exp(x - x.max(axis=-1, keepdims=True, initial=-np.inf))
        p = x / x.sum(axis=-1, keepdims=True)
        values, probabilities = forward(p[..., :s], after)
        dp = backward(do @ np.swapaxes(v, -1, -2), after, probabilities)
        delta = (p[..., :s] * dp).sum(axis=-1, keepdims=True)
        for sink in sinks:
            found[FIRST_MODIFIER + sink][..., :1] -= p[..., s:] * delta
        dx = backward(p[..., :s] * (dp - delta), before, logits)
        if rounded is not None:
            values, dx = (x.astype(rounded).astype(dtype) for x in (values, dx))
        found |= {Q: dx @ k, K: np.swapaxes(dx, -1, -2) @ q, V: np.swapaxes(values, -1, -2) @ do}
    return [
        _summed(found[gradient.role], gradient.strides, gradient.shape) * np.asarray(gradient.factor, dtype)
        for gradient in gradients
    ]


def _summed(full: Array, strides: Sequence[int], shape: Sequence[int]) -> Array:
    """`full` summed over the axes whose stride is 0 and written through the others."""
    kept = full.sum(axis=tuple(i for i, stride in enumerate(strides) if stride == 0), keepdims=True)
    out = np.zeros(tuple(shape), full.dtype)
    bytes_ = [stride * out.itemsize for stride in strides]
    np.lib.stride_tricks.as_strided(out.reshape(-1), kept.shape, bytes_)[...] = kept
    return out


def _run(x: Array, step: Step, modifiers: Sequence[Array]) -> Array:
    return _STEPS[step.op](x, *_arguments(x, step, modifiers))


def _run_back(dx: Array, x: Array, step: Step, modifiers: Sequence[Array]) -> Array:
    """The gradient of what `step` takes, x, given that of what it gives."""
    derivative = _DERIVATIVES.get(step.op)
    return dx if derivative is None else derivative(dx, x, *_arguments(x, step, modifiers))


def _arguments(x: Array, step: Step, modifiers: Sequence[Array]) -> tuple[Array, Any, Array]:
    """m, c and which elements are inside the band, for logits x."""
    c = x.dtype.type(np.float32(step.c))
    m = modifiers[step.modifier] if step.modifier >= 0 else np.zeros((), x.dtype)
    if m.dtype != bool:
        m = m.astype(x.dtype)
    distance = np.arange(x.shape[-1]) - np.arange(x.shape[-2])[:, None]
    return m, c, (distance >= step.lo) & (distance <= step.hi)


_STEPS: dict[Opcode, Callable[[Array, Array, Any, Array], Array]] = {
    Opcode.SCALE: lambda x, m, c, inside: x * c,
    Opcode.MUL: lambda x, m, c, inside: x * m,
    Opcode.ADD: lambda x, m, c, inside: x + m,
    Opcode.SELECT: lambda x, m, c, inside: np.where(m, x, c),
    Opcode.BAND: lambda x, m, c, inside: np.where(inside, x, c),
    Opcode.TANH: lambda x, m, c, inside: np.tanh(x),
    Opcode.MAX: lambda x, m, c, inside: np.maximum(x, c),
    Opcode.OFFSET: lambda x, m, c, inside: x + c,
    Opcode.BAND_ADD: lambda x, m, c, inside: x + np.where(inside, x.dtype.type(0), c),
    Opcode.SELECT_ADD: lambda x, m, c, inside: x + np.where(m, x.dtype.type(0), c),
    Opcode.POST_MUL: lambda x, m, c, inside: x * m,
    Opcode.POST_SELECT: lambda x, m, c, inside: np.where(m, x, c),
}
# Where nothing is named the gradient passes as it is. max(x, c) gives half of it to x where the two are equal.
_DERIVATIVES: dict[Opcode, Callable[[Array, Array, Array, Any, Array], Array]] = {
    Opcode.SCALE: lambda dx, x, m, c, inside: dx * c,
    Opcode.MUL: lambda dx, x, m, c, inside: dx * m,
    Opcode.SELECT: lambda dx, x, m, c, inside: np.where(m, dx, 0),
    Opcode.BAND: lambda dx, x, m, c, inside: np.where(inside, dx, 0),
    Opcode.TANH: lambda dx, x, m, c, inside: dx * (1 - np.tanh(x) ** 2),
    Opcode.MAX: lambda dx, x, m, c, inside: dx * (1 + np.sign(x - c)) / 2,
    Opcode.POST_MUL: lambda dx, x, m, c, inside: dx * m,
    Opcode.POST_SELECT: lambda dx, x, m, c, inside: np.where(m, dx, 0),
}
