"""The calls of the CPU kernels of softmax and log-softmax, `softmax.cc`."""

from __future__ import annotations

import jax
import numpy as np
from jax.typing import DTypeLike

from zenith_mlir.kernels.cpu.library import register


def softmax_call(
    x: jax.Array, *, log: bool = False, scale: float = 1.0, out_dtype: DTypeLike | None = None
) -> jax.Array:
    """The softmax, or with `log` its logarithm, of scale · x over the last axis, on XLA's CPU platform.

    Args:
      x: [..., n], float32, bfloat16 or float16.
      log: z - log Σ exp z instead of exp z / Σ exp z.
      scale: a number; any sign.
      out_dtype: of the result, by default that of x.

    Arithmetic is float32. A row that holds NaN or +inf, or -inf alone, is NaN, as with jax.nn.softmax.

    Raises:
      KernelLibraryMissing: the kernels are not built.
      jax.errors.JaxRuntimeError: when it runs, naming the argument, where these do not fit each other.
    """
    register()
    result = jax.ShapeDtypeStruct(x.shape, x.dtype if out_dtype is None else out_dtype)
    y: jax.Array = jax.ffi.ffi_call("zenith_softmax", result)(x, log=log, scale=np.float32(scale))
    return y


def softmax_vjp_call(
    y: jax.Array, cotangent: jax.Array, *, log: bool = False, scale: float = 1.0, dx_dtype: DTypeLike | None = None
) -> jax.Array:
    """The gradient of `softmax_call` with respect to x, from its result y and the cotangent of that.

    Args:
      y, cotangent: [..., n], float32, bfloat16 or float16, each its own.
      log, scale: as there.
      dx_dtype: of the gradient, by default that of y.

    Raises:
      KernelLibraryMissing: the kernels are not built.
      jax.errors.JaxRuntimeError: when it runs, naming the argument, where these do not fit each other.
    """
    register()
    result = jax.ShapeDtypeStruct(y.shape, y.dtype if dx_dtype is None else dx_dtype)
    dx: jax.Array = jax.ffi.ffi_call("zenith_softmax_vjp", result)(y, cotangent, log=log, scale=np.float32(scale))
    return dx
