"""The calls of the CPU kernels of cross-entropy with integer labels, `cross_entropy.cc`."""

from __future__ import annotations

import enum
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from zenith_mlir.kernels.cpu.library import register


class Outside(enum.IntEnum):
    """What a label that is no column means."""

    FILL = 0  # as jnp.take_along_axis: negative ones count from the end, beyond that the loss is NaN
    ZERO = 1  # as jax.nn.one_hot: no class
    DROP = 2  # as lse - Σ_j one_hot_j x_j: no class, and the loss is lse


class CrossEntropy(NamedTuple):
    """What `cross_entropy_call` returns: float32, one a row. log Σ exp x is maximum + log(sum)."""

    loss: jax.Array
    maximum: jax.Array
    sum: jax.Array


def cross_entropy_call(
    logits: jax.Array,
    labels: jax.Array,
    *,
    smoothing: float = 0.0,
    z_loss: float = 0.0,
    outside: Outside = Outside.FILL,
    infinity_is_nan: bool = False,
) -> CrossEntropy:
    """loss = Σ_j t_j (lse - x_j) + z_loss · lse² for each row x of logits, on XLA's CPU platform.

    t_j = (1 - smoothing) [j = label] + smoothing / V, and lse = log Σ exp x.

    Args:
      logits: [..., V], float32, bfloat16 or float16; V >= 1.
      labels: [...], integers.
      smoothing: the share of the target that is spread over all V.
      z_loss: the factor of lse².
      outside: what a label means that is not in [0, V).
      infinity_is_nan: a row that holds +inf has the loss NaN, as where x - max x is computed; else lse is +inf, as with
        jax.nn.logsumexp.

    Returns: the loss; the maximum of each row and its Σ exp(x - maximum), from which the gradient is made.

    Raises:
      KernelLibraryMissing: the kernels are not built.
      jax.errors.JaxRuntimeError: when it runs, naming the argument, where these do not fit each other.
    """
    register()
    rows = jax.ShapeDtypeStruct(logits.shape[:-1], np.float32)
    call = jax.ffi.ffi_call("zenith_cross_entropy", (rows, rows, rows))
    results = call(logits, _int32(labels), **_attributes(smoothing, z_loss, outside, infinity_is_nan))
    return CrossEntropy(*results)


def cross_entropy_vjp_call(
    logits: jax.Array,
    labels: jax.Array,
    cotangent: jax.Array,
    lse_cotangent: jax.Array | None = None,
    residuals: tuple[jax.Array, jax.Array] | None = None,
    *,
    loss: bool = False,
    smoothing: float = 0.0,
    z_loss: float = 0.0,
    outside: Outside = Outside.FILL,
    infinity_is_nan: bool = False,
) -> tuple[jax.Array, ...]:
    """The gradient of `cross_entropy_call` with respect to the logits, in their dtype.

    Args:
      logits, labels: as there.
      cotangent: of the loss, float32 [...].
      lse_cotangent: of log Σ exp x where that is used beside the loss, float32 [...].
      residuals: maximum and sum, which a call of `cross_entropy_call` returned; without them they are made again.
      loss: the loss is a result too, so that no other call is needed where the cotangent is known before; only without
        residuals.
      smoothing, z_loss, outside, infinity_is_nan: as there. A label outside leaves [j = label] out.

    Returns: dlogits, and where asked for the loss.

    Raises:
      KernelLibraryMissing: the kernels are not built.
      jax.errors.JaxRuntimeError: when it runs, naming the argument, where these do not fit each other.
    """
    register()
    results = [jax.ShapeDtypeStruct(logits.shape, logits.dtype)]
    if loss:
        results.append(jax.ShapeDtypeStruct(logits.shape[:-1], np.float32))
    of_lse = jnp.zeros(logits.shape[:-1], np.float32) if lse_cotangent is None else lse_cotangent
    call = jax.ffi.ffi_call("zenith_cross_entropy_vjp", results)
    return tuple(
        call(
            logits,
            _int32(labels),
            cotangent,
            of_lse,
            *(residuals or ()),
            **_attributes(smoothing, z_loss, outside, infinity_is_nan),
            residuals=residuals is not None,
            loss=loss,
        )
    )


def _int32(labels: jax.Array) -> jax.Array:
    """Wider labels stay outside where they are."""
    if labels.dtype == np.int32:
        return labels
    own, limits = np.iinfo(labels.dtype), np.iinfo(np.int32)
    return labels.clip(max(own.min, limits.min), min(own.max, limits.max)).astype(np.int32)


def _attributes(smoothing: float, z_loss: float, outside: Outside, infinity_is_nan: bool) -> dict[str, np.generic]:
    return {
        "smoothing": np.float32(smoothing),
        "z_loss": np.float32(z_loss),
        "outside": np.int64(outside),
        "infinity_is_nan": np.bool_(infinity_is_nan),
    }
