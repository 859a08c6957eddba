"""The call of the CPU matrix product, `matmul.cc`."""

import dataclasses
import enum
import itertools
from collections.abc import Sequence

import jax
import numpy as np
from jax.typing import DTypeLike

from zenith_mlir.kernels.cpu.library import register


class Opcode(enum.IntEnum):
    """What a step does to the sum x, a float32."""

    SCALE = 0  # x *= c
    OFFSET = 1  # x += c
    MUL = 2  # x *= m
    ADD = 3  # x += m
    RELU = 4  # max(x, 0)
    TANH = 5
    SIGMOID = 6  # 1 / (1 + exp(-x))
    SILU = 7  # x / (1 + exp(-x))
    GELU = 8  # x (1 + erf(x / √2)) / 2
    GELU_TANH = 9  # x (1 + tanh(√(2/π) (x + 0.044715 x³))) / 2
    TO_BF16 = 10  # x rounded to bfloat16
    TO_F16 = 11  # x rounded to float16


@dataclasses.dataclass(frozen=True)
class Step:
    """One step of the program between the sums and the result. `modifier` is the position of m among the modifiers."""

    op: Opcode
    c: float = 0.0
    modifier: int = -1


def matmul_call(
    lhs: jax.Array,
    rhs: jax.Array,
    modifiers: Sequence[jax.Array] = (),
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
    out_dtype: DTypeLike,
) -> jax.Array:
    """out[p, m, n] = steps(Σ_k lhs[p, m, k] rhs[p, k, n])[p, m, n], on XLA's CPU platform.

    The operands may have any rank and layout: they are read in place through strides, counted in elements of the
    row-major array.

    Args:
      lhs, rhs: float32, bfloat16 or float16, each its own.
      modifiers: float32, bfloat16 or float16 arrays that `steps` name.
      p, m, n, k: extents of the axes that each index is made of, major to minor, at most 8 each: p are in both
        operands and the result, m in lhs, n in rhs, k in both and summed over.
      lhs_strides, rhs_strides, out_strides: along the axes of (p, m, k), (p, k, n), (p, m, n). A stride of 0
        broadcasts; the strides of out visit each of its elements once.
      mod_strides: for each modifier along the axes of (p, m, n).
      steps: applied in order.
      out_shape, out_dtype: of the result; float32, bfloat16 or float16.

    Sums and steps are float32. Where both operands are bfloat16 and the processor multiplies pairs of them, operands
    and partial sums that are subnormal count as 0.

    Raises:
      KernelLibraryMissing: the kernels are not built.
      jax.errors.JaxRuntimeError: when it runs, naming the argument, where these do not fit each other.
    """
    register()
    integers = {
        "counts": [len(p), len(m), len(n), len(k)],
        "extents": [*p, *m, *n, *k],
        "lhs_strides": lhs_strides,
        "rhs_strides": rhs_strides,
        "out_strides": out_strides,
        "mod_strides": list(itertools.chain(*mod_strides)),
        "steps_op": [number for step in steps for number in (step.op, step.modifier)],
    }
    attributes = {name: np.asarray(value, np.int64) for name, value in integers.items()}
    call = jax.ffi.ffi_call("zenith_matmul", jax.ShapeDtypeStruct(tuple(out_shape), out_dtype))
    result: jax.Array = call(
        lhs, rhs, *modifiers, **attributes, steps_f=np.asarray([step.c for step in steps], np.float32)
    )
    return result
