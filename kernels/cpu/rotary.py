"""The call of the CPU kernel of rotary embeddings, `rotary.cc`."""

from collections.abc import Sequence

import jax
import numpy as np

from zenith_mlir.kernels.cpu.library import register


def rotary_call(
    x: jax.Array,
    cos: jax.Array,
    sin: jax.Array,
    *,
    dims: Sequence[int],
    rotated: int,
    x_strides: Sequence[int],
    cos_strides: Sequence[int],
    sin_strides: Sequence[int],
    out_strides: Sequence[int] | None = None,
    out_shape: Sequence[int] | None = None,
    interleaved: bool = False,
    transposed: bool = False,
) -> jax.Array:
    """x with its first `rotated` features rotated in pairs, on XLA's CPU platform.

    out[a] = x[a] cos[a] - x[b] sin[a] and out[b] = x[b] cos[b] + x[a] sin[b], where the pair (a, b) is
    (i, i + rotated/2), or (2 i, 2 i + 1) if `interleaved`. `transposed` is the gradient: x is then the cotangent.

    Args:
      x: float32, bfloat16 or float16; its last axis is the features.
      cos, sin: of one of these types; their last axis has `rotated` columns, one a feature, or rotated/2, one a pair.
      dims: extents of the axes of x other than the features, at most 8.
      x_strides, cos_strides, sin_strides: of these axes, counted in elements of the row-major array. A stride of 0
        repeats.
      out_strides, out_shape: the same of the result; laid out as x if absent.

    Raises:
      KernelLibraryMissing: the kernels are not built.
      jax.errors.JaxRuntimeError: when it runs, naming the argument, where these do not fit each other.
    """
    register()
    call = jax.ffi.ffi_call("zenith_rotary", jax.ShapeDtypeStruct(x.shape if out_shape is None else out_shape, x.dtype))
    integers = {
        "dims": dims,
        "sizes": (x.shape[-1], rotated, cos.shape[-1]),
        "x_strides": x_strides,
        "cos_strides": cos_strides,
        "sin_strides": sin_strides,
        "out_strides": x_strides if out_strides is None else out_strides,
    }
    attributes = {name: np.asarray(value, np.int64) for name, value in integers.items()}
    result: jax.Array = call(
        x, cos, sin, **attributes, interleaved=np.bool_(interleaved), transposed=np.bool_(transposed)
    )
    return result
