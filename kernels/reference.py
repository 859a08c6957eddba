"""The attention kernel's mathematics in numpy float64, the judge of its numerics."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from zenith_mlir.kernels.cpu.attention import Opcode, Step

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
) -> Array:
    """The plain formula: takes what `zenith_mlir.kernels.cpu.attention.attention_call` takes, but computes in `dtype`.

    With dtype float32 it is the naive program the kernel competes with. With S = 0 the sum over keys is empty and the
    result 0.
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
        result = x @ v
    out = np.zeros(tuple(out_shape), dtype)
    bytes_ = [stride * out.itemsize for stride in out_strides]
    np.lib.stride_tricks.as_strided(out.reshape(-1), result.shape, bytes_)[...] = result
    return out


def _run(x: Array, step: Step, modifiers: Sequence[Array]) -> Array:
    c = x.dtype.type(np.float32(step.c))
    m = modifiers[step.modifier] if step.modifier >= 0 else np.zeros((), x.dtype)
    if m.dtype != bool:
        m = m.astype(x.dtype)
    distance = np.arange(x.shape[-1]) - np.arange(x.shape[-2])[:, None]
    inside = (distance >= step.lo) & (distance <= step.hi)
    return _STEPS[step.op](x, m, c, inside)


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
