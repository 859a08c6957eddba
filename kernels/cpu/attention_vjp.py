"""The call of the CPU kernel for the gradients of attention, `attention_vjp.cc`."""

import dataclasses
from collections.abc import Sequence

import jax
import numpy as np

from zenith_mlir.kernels.cpu.attention import Step, encode
from zenith_mlir.kernels.cpu.library import register

Q, K, V, FIRST_MODIFIER = range(4)
"""Roles of gradients; FIRST_MODIFIER + i is modifier i."""


@dataclasses.dataclass(frozen=True)
class Gradient:
    """A result: `factor` times the gradient of what plays `role`, summed over the axes along which `strides` are 0.

    `strides` are of the parallel axes, then (t, d) for Q, (s, d) for K, (s, e) for V and (t, s) for a modifier. Those
    that are not 0 visit each element of `shape` once. The factor of a modifier's is 1. That of another meets the scale
    of the logits before either meets the sum: a gradient that is small is not lost on the way.
    """

    role: int
    strides: Sequence[int]
    shape: Sequence[int]
    factor: float = 1.0


def attention_vjp_call(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    maximum: jax.Array,
    total: jax.Array,
    cotangent: jax.Array,
    modifiers: Sequence[jax.Array] = (),
    *,
    gradients: Sequence[Gradient],
    dims: Sequence[int],
    sizes: tuple[int, int, int, int],
    q_strides: Sequence[int],
    k_strides: Sequence[int],
    v_strides: Sequence[int],
    cotangent_strides: Sequence[int],
    mod_strides: Sequence[Sequence[int]] = (),
    steps: Sequence[Step] = (),
) -> list[jax.Array]:
    """Gradients of `attention_call` along the cotangent of its result, on XLA's CPU platform.

    Nothing of the size of the logits is made, except the gradient of a modifier that has it. A thread keeps a few
    numbers for each key and each of some dozen queries.

    Args:
      q, k, v, modifiers, dims, sizes, steps and their strides: as for `attention_call`. POST_SELECT takes c = 0 only.
      maximum, total: what `attention_residuals_call` gave. Any other pair will do for which the probabilities are
        exp(logit - maximum) / total.
      cotangent: float32, bfloat16 or float16.
      cotangent_strides: of the parallel axes, then (t, e). 0 repeats.
      gradients: what to compute. Modifiers of MUL, ADD, SINK and POST_MUL have gradients, 0 where no step reads them;
        that of a sink must not vary with s.

    Returns: float32 arrays, one for each of `gradients`. The same call gives the same bits again on as many threads.

    Raises:
      KernelLibraryMissing: the kernels are not built.
      jax.errors.JaxRuntimeError: when it runs, naming the argument, where these do not fit each other.
    """
    register()
    results = [jax.ShapeDtypeStruct(tuple(gradient.shape), np.float32) for gradient in gradients]
    encoded = encode(
        steps,
        dims=dims,
        sizes=sizes,
        q_strides=q_strides,
        k_strides=k_strides,
        v_strides=v_strides,
        cotangent_strides=cotangent_strides,
        mod_strides=mod_strides,
        gradient_roles=[gradient.role for gradient in gradients],
        gradient_strides=[list(gradient.strides) for gradient in gradients],
    )
    factors = np.asarray([gradient.factor for gradient in gradients], np.float32)
    call = jax.ffi.ffi_call("zenith_attention_vjp", results)
    return list(call(q, k, v, maximum, total, cotangent, *modifiers, **encoded, gradient_factors=factors))
