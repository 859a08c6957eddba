"""The mathematics of the matrix product in numpy float64, the judge of its numerics."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import ml_dtypes
import numpy as np
import numpy.typing as npt

from zenith_mlir.kernels.cpu.matmul import Opcode, Step
from zenith_mlir.kernels.reference.attention import strided

Array = npt.NDArray[Any]


def matmul(
    lhs: Array,
    rhs: Array,
    modifiers: Sequence[Array] = (),
    *,
    p: Sequence[int] = (),
    m: Sequence[int],
    n: Sequence[int],
    k: Sequence[int],
    lhs_strides: Sequence[int],
    rhs_strides: Sequence[int],
    out_strides: Sequence[int],
    mod_strides: Sequence[Sequence[int]] = (),
    steps: Sequence[Step] = (),
    out_shape: Sequence[int],
    dtype: npt.DTypeLike = np.float64,
) -> Array:
    """The plain formula: takes what `zenith_mlir.kernels.cpu.matmul.matmul_call` takes, but computes in `dtype`.

    With dtype float32 it is the naive program the kernel competes with.
    """
    places = (math.prod(p), math.prod(m), math.prod(n), math.prod(k))
    a = strided(lhs, (*p, *m, *k), lhs_strides).reshape(places[0], places[1], places[3]).astype(dtype)
    b = strided(rhs, (*p, *k, *n), rhs_strides).reshape(places[0], places[3], places[2]).astype(dtype)
    own = [strided(x, (*p, *m, *n), strides) for x, strides in zip(modifiers, mod_strides, strict=True)]
    with np.errstate(all="ignore"):
        x = (a @ b).reshape((*p, *m, *n))
        for step in steps:
            modifier = own[step.modifier].astype(dtype) if step.modifier >= 0 else np.zeros((), dtype)
            x = _STEPS[step.op](x, x.dtype.type(np.float32(step.c)), modifier)
    out = np.zeros(tuple(out_shape), dtype)
    bytes_ = [stride * out.itemsize for stride in out_strides]
    np.lib.stride_tricks.as_strided(out.reshape(-1), x.shape, bytes_)[...] = x
    return out


def _sigmoid(x: Array) -> Array:
    return 1 / (1 + np.exp(-x))


def _erf(x: Array) -> Array:
    result: Array = np.vectorize(math.erf, otypes=[x.dtype])(x)
    return result


_STEPS: dict[Opcode, Callable[[Array, Any, Array], Array]] = {
    Opcode.SCALE: lambda x, c, m: x * c,
    Opcode.OFFSET: lambda x, c, m: x + c,
    Opcode.MUL: lambda x, c, m: x * m,
    Opcode.ADD: lambda x, c, m: x + m,
    Opcode.RELU: lambda x, c, m: np.maximum(x, 0),
    Opcode.TANH: lambda x, c, m: np.tanh(x),
    Opcode.SIGMOID: lambda x, c, m: _sigmoid(x),
    Opcode.SILU: lambda x, c, m: x * _sigmoid(x),
    Opcode.GELU: lambda x, c, m: x * (1 + _erf(x * x.dtype.type(np.sqrt(0.5)))) / 2,
    Opcode.GELU_TANH: lambda x, c, m: (
        x * (1 + np.tanh(x.dtype.type(np.sqrt(2 / np.pi)) * (x + x.dtype.type(0.044715) * x**3))) / 2
    ),
    Opcode.TO_BF16: lambda x, c, m: x.astype(ml_dtypes.bfloat16).astype(x.dtype),
    Opcode.TO_F16: lambda x, c, m: x.astype(np.float16).astype(x.dtype),
}
