"""The call of the CPU attention kernel, `attention.cc`."""

import dataclasses
import enum
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jax.typing import DTypeLike

from zenith_mlir.kernels.cpu.library import register

UNBOUNDED = 2**62
"""As `lo` (negated) or `hi` of a band: no limit on that side."""


class Opcode(enum.IntEnum):
    """What a step does to the logit x of query t and key s; POST_ steps act on the probability p."""

    SCALE = 0  # x *= c
    MUL = 1  # x *= m
    ADD = 2  # x += m
    SELECT = 3  # x = m ? x : c
    BAND = 4  # x = lo <= s - t <= hi ? x : c
    TANH = 5  # x = tanh(x)
    MAX = 6  # x = max(x, c)
    OFFSET = 7  # x += c
    BAND_ADD = 8  # x += lo <= s - t <= hi ? 0 : c
    SELECT_ADD = 9  # x += m ? 0 : c
    POST_MUL = 16  # p *= m
    POST_SELECT = 17  # p = m ? p : c
    SINK = 18  # the softmax's sum has one more term, exp(m)


@dataclasses.dataclass(frozen=True)
class Step:
    """One step of the program between the logits and the softmax, or between the softmax and the values.

    `modifier` is the position of m among the modifiers: bool for SELECT, SELECT_ADD and POST_SELECT, a float type for
    MUL, ADD, POST_MUL and SINK, of which there is at most one; its m does not depend on s.
    """

    op: Opcode
    c: float = 0.0
    modifier: int = -1
    lo: int = -UNBOUNDED
    hi: int = UNBOUNDED


def attention_call(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    modifiers: Sequence[jax.Array] = (),
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
    out_dtype: DTypeLike,
) -> jax.Array:
    """out[p, t, e] = Σ_s softmax_s(program(Σ_d q[p,t,d] k[p,s,d]))[p,t,s] · v[p,s,e], on XLA's CPU platform.

    The operands may have any rank and layout: they are read in place through strides, counted in elements of the
    row-major array.

    Args:
      q, k, v: float32, bfloat16 or float16, each its own.
      modifiers: float32, bfloat16, float16 or bool arrays that `steps` name.
      dims: extents of the parallel axes p (batch, heads, groups, ...), at most 8.
      sizes: T, S, D, E.
      q_strides, k_strides, v_strides, out_strides: of the parallel axes, then (t, d), (s, d), (s, e), (t, e). A stride
        of 0 broadcasts; the strides of out visit each of its elements once.
      mod_strides: for each modifier, of the parallel axes, t and s.
      steps: applied in order. Steps on the probabilities come last.
      out_shape, out_dtype: of the result; float32, bfloat16 or float16.

    Sums, the softmax and the steps are float32. A row that is masked with finite fills alone is the softmax of its
    fills; one whose logits are all -inf, or hold NaN or +inf, is NaN, as in the formula above.

    Raises:
      KernelLibraryMissing: the kernels are not built.
      jax.errors.JaxRuntimeError: when it runs, naming the argument, where these do not fit each other.
    """
    register()
    encoded = encode(
        steps,
        dims=dims,
        sizes=sizes,
        q_strides=q_strides,
        k_strides=k_strides,
        v_strides=v_strides,
        out_strides=out_strides,
        mod_strides=mod_strides,
    )
    call = jax.ffi.ffi_call("zenith_attention", jax.ShapeDtypeStruct(tuple(out_shape), out_dtype))
    result: jax.Array = call(q, k, v, *modifiers, **encoded)
    return result


def attention_residuals_call(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    modifiers: Sequence[jax.Array] = (),
    *,
    dims: Sequence[int],
    sizes: tuple[int, int, int, int],
    out_shape: Sequence[int],
    out_dtype: DTypeLike,
    steps: Sequence[Step] = (),
    **strides: Any,
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """What `attention_call` computes, and what its backward needs of each row of logits: takes the same arguments.

    Returns: out; the maximum m of each row and its Σ_s exp(logit - m), both float32 [*dims, T]. A sink is one of the
    logits.
    """
    register()
    rows = jax.ShapeDtypeStruct((*dims, sizes[0]), np.float32)
    call = jax.ffi.ffi_call("zenith_attention", (jax.ShapeDtypeStruct(tuple(out_shape), out_dtype), rows, rows))
    out, maximum, total = call(
        q, k, v, *modifiers, **encode(steps, dims=dims, sizes=sizes, **({"mod_strides": ()} | strides))
    )
    return out, maximum, total


def encode(steps: Sequence[Step], **integers: Any) -> dict[str, np.ndarray]:
    """The steps and the other attributes as the calls take them: flat arrays of int64, and float32 constants."""
    rows = [(step.op, step.modifier, step.lo, step.hi) for step in steps]
    return {
        **{name: np.asarray(value, np.int64).ravel() for name, value in (integers | {"steps_op": rows}).items()},
        "steps_f": np.asarray([step.c for step in steps], np.float32),
    }
