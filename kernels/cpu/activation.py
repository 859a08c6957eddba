"""The calls of the CPU activation kernels, `activation.cc`."""

import enum

import jax
import numpy as np
from jax.typing import DTypeLike

from zenith_mlir.kernels.cpu.library import register


class Kind(enum.IntEnum):
    """The activations, as `activation.h` numbers them; their names are those of dialects/activations.py."""

    GELU = 0
    GELU_TANH = 1
    SILU = 2
    SIGMOID = 3
    RELU = 4


def activation_call(
    x: jax.Array, bias: jax.Array | None = None, *, kind: Kind, slope: float = 1.0, dtype: DTypeLike | None = None
) -> jax.Array:
    """act(x + bias), on XLA's CPU platform.

    Args:
      x: [..., f], float32, bfloat16 or float16.
      bias: [f], of any of these types.
      slope: for SILU and SIGMOID the factor of x inside the logistic function.
      dtype: of the result; that of x unless given. The arithmetic is float32.

    Raises:
      KernelLibraryMissing: the kernels are not built.
      jax.errors.JaxRuntimeError: when it runs, naming the argument, where these do not fit each other.
    """
    register()
    call = jax.ffi.ffi_call("zenith_activation", jax.ShapeDtypeStruct(x.shape, dtype or x.dtype))
    result: jax.Array = call(x, *_given(bias), kind=np.int64(kind), slope=np.float32(slope))
    return result


def activation_vjp_call(
    x: jax.Array,
    cotangent: jax.Array,
    bias: jax.Array | None = None,
    *,
    kind: Kind,
    slope: float = 1.0,
    dtype: DTypeLike | None = None,
) -> jax.Array:
    """cotangent ∘ act'(x + bias): the gradient of x, for `activation_call` with these arguments.

    Args:
      cotangent: of the shape of x; float32, bfloat16 or float16.
      dtype: of the result; that of x unless given.

    Raises: as `activation_call`.
    """
    register()
    call = jax.ffi.ffi_call("zenith_activation_vjp", jax.ShapeDtypeStruct(x.shape, dtype or x.dtype))
    result: jax.Array = call(x, cotangent, *_given(bias), kind=np.int64(kind), slope=np.float32(slope))
    return result


def _given(bias: jax.Array | None) -> tuple[jax.Array, ...]:
    return () if bias is None else (bias,)
