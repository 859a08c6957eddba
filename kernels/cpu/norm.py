"""The calls of the CPU kernels of LayerNorm and RMSNorm, `norm.cc`."""

from __future__ import annotations

import jax
import numpy as np
from jax.typing import DTypeLike

from zenith_mlir.kernels.cpu.library import register


def norm_call(
    x: jax.Array,
    weight: jax.Array | None = None,
    bias: jax.Array | None = None,
    residual: jax.Array | None = None,
    *,
    centred: bool,
    epsilon: float,
    offset: float = 0.0,
    out_dtype: DTypeLike | None = None,
    sum_dtype: DTypeLike | None = None,
) -> tuple[jax.Array, ...]:
    """n(s) · (weight + offset) + bias with s = x + residual, over the last axis, on XLA's CPU platform.

    n(s) = (s - mean s) / √(mean (s - mean s)² + epsilon) if `centred` (LayerNorm), else s / √(mean s² + epsilon)
    (RMSNorm).

    Args:
      x, residual: [..., n], float32, bfloat16 or float16, each its own. `residual` may be None, as may
      weight, bias: [n], of any of these types.
      offset: added to the weight, not to the 1 that stands for a missing one.
      out_dtype: of the result, by default that of x.
      sum_dtype: of s, to which the sum is rounded before it is normalised; by default that of x.

    Returns: out, or with a residual out and s. Arithmetic is float32; mean and variance are more exact than that.

    Raises:
      KernelLibraryMissing: the kernels are not built.
      jax.errors.JaxRuntimeError: when it runs, naming the argument, where these do not fit each other.
    """
    register()
    results = [jax.ShapeDtypeStruct(x.shape, x.dtype if out_dtype is None else out_dtype)]
    if residual is not None:
        results.append(jax.ShapeDtypeStruct(x.shape, x.dtype if sum_dtype is None else sum_dtype))
    call = jax.ffi.ffi_call("zenith_norm", results)
    return tuple(
        call(
            x,
            *(operand for operand in (residual, weight, bias) if operand is not None),
            centred=centred,
            residual=residual is not None,
            weight=weight is not None,
            bias=bias is not None,
            epsilon=np.float32(epsilon),
            offset=np.float32(offset),
        )
    )


def norm_vjp_call(
    s: jax.Array,
    cotangent: jax.Array,
    weight: jax.Array | None = None,
    sum_cotangent: jax.Array | None = None,
    *,
    centred: bool,
    epsilon: float,
    offset: float = 0.0,
    dx_dtype: DTypeLike | None = None,
    dweight_dtype: DTypeLike | None = None,
    dbias_dtype: DTypeLike | None = None,
) -> tuple[jax.Array, ...]:
    """The gradients of `norm_call`; the statistics are made again from s.

    Args:
      s: what was normalised: x, or with a residual the second result.
      cotangent: of out.
      weight: as there.
      sum_cotangent: of s where that is a result with users of its own, or None.
      dx_dtype: of dx, which is the gradient of the residual too; by default that of s.
      dweight_dtype, dbias_dtype: of the gradients of weight and bias, summed over all rows; None where not wanted.

    Returns: dx, then those of dweight and dbias that are wanted. They are the same for any number of threads.

    Raises:
      KernelLibraryMissing: the kernels are not built.
      jax.errors.JaxRuntimeError: when it runs, naming the argument, where these do not fit each other.
    """
    register()
    results = [jax.ShapeDtypeStruct(s.shape, s.dtype if dx_dtype is None else dx_dtype)]
    results += [
        jax.ShapeDtypeStruct(s.shape[-1:], dtype) for dtype in (dweight_dtype, dbias_dtype) if dtype is not None
    ]
    call = jax.ffi.ffi_call("zenith_norm_vjp", results)
    return tuple(
        call(
            s,
            cotangent,
            *(operand for operand in (sum_cotangent, weight) if operand is not None),
            centred=centred,
            weight=weight is not None,
            sum_cotangent=sum_cotangent is not None,
            dweight=dweight_dtype is not None,
            dbias=dbias_dtype is not None,
            epsilon=np.float32(epsilon),
            offset=np.float32(offset),
        )
    )
