"""zenith.attention_vjp on CPU: what the kernel takes, and the call for it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from zenith_mlir.dialects.attention import AttentionSpec
from zenith_mlir.dialects.attention_vjp import AttentionVjpSpec, Gradient
from zenith_mlir.dialects.implementation import Implementation, Refusal, Request
from zenith_mlir.dialects.labelled import plain, spread
from zenith_mlir.kernels.cpu import attention_arguments
from zenith_mlir.kernels.cpu.attention_arguments import Modifier, modifiers_of, strides
from zenith_mlir.kernels.cpu.attention_work import backward_work

if TYPE_CHECKING:
    import jax

    from zenith_mlir.kernels.cpu import attention_vjp as kernel


def refuse(request: Request) -> Refusal | None:
    """Limits first (types, axes, steps without a simple gradient), then worth (the user's min-seq)."""
    spec: AttentionVjpSpec = request.spec
    if any(step.kind == "post_select" and step.value for step in spec.attention.steps):
        return Refusal("the CPU kernel has no gradient where probabilities are replaced by a constant other than 0")
    for gradient in spec.gradients:
        refusal = _refuse_gradient(spec.attention, gradient)
        if refusal is not None:
            return refusal
    roles, _, cotangent = spec.split(request.operands)
    floats = (*roles[:3], cotangent, *request.results)
    return attention_arguments.refuse(spec.attention, floats, request.min_seq)


def _refuse_gradient(spec: AttentionSpec, gradient: Gradient) -> Refusal | None:
    if gradient.role < 3:
        return None
    readers = [step for step in spec.steps if step.operand == gradient.role]
    if any(step.is_sink for step in readers) and "s" in gradient.layout.axes:
        return Refusal("the gradient of an attention sink is wanted for each key, which it does not have")
    if any(step.kind in ("select", "post_select") for step in readers):
        return Refusal("a gradient of a mask is wanted")
    own = spec.role_layouts[gradient.role].axes
    if any(step.kind == "divide" for step in readers) and not set(own) <= set(gradient.layout.axes):
        return Refusal("the gradient of a divisor is wanted summed over axes along which it varies")
    return None


def build(request: Request) -> Callable[..., list[jax.Array]]:
    """The call of the kernel: operands are read in place through strides, gradients are summed where they are made.

    The function returns a gradient for each of the spec's, in the dtypes of the request's results.
    """
    import jax.numpy as jnp

    from zenith_mlir.kernels.cpu.attention_vjp import attention_vjp_call

    spec: AttentionVjpSpec = request.spec
    attention = spec.attention
    modifiers, arguments = modifiers_of(attention), attention_arguments.arguments(attention)
    del arguments["out_strides"]
    wanted = [_kernel_gradients(attention, gradient, modifiers) for gradient in spec.gradients]
    wide = _wants_float32(request)

    def vjp(*operands: jax.Array) -> list[jax.Array]:
        roles, kept, cotangent = spec.split(operands)
        q, k, v = roles[:3]
        turned = [modifier.of(roles) for modifier in modifiers]
        if wide:
            cotangent = cotangent.astype(jnp.float32)
        maximum, total = kept[1:] or _residuals((q, k, v), turned, arguments)
        found = attention_vjp_call(
            q,
            k,
            v,
            maximum,
            total,
            cotangent,
            turned,
            gradients=[gradient for gradients in wanted for gradient in gradients],
            cotangent_strides=strides(attention, spec.cotangent, "t", "e"),
            **arguments,
        )
        rest, results = iter(found), []
        for gradient, parts, result in zip(spec.gradients, wanted, request.results, strict=True):
            if gradient.role < 3:
                results.append(next(rest).astype(result.dtype))
                continue
            total = jnp.zeros(result.shape, jnp.float32)
            for part in parts:
                total += _through_turn(attention, gradient, modifiers[part.role - 3], next(rest), roles)
            results.append((gradient.factor * total).astype(result.dtype))
        return results

    return vjp


def _wants_float32(request: Request) -> bool:
    """Whether a gradient of q, k or v is more than bfloat16, to which the kernel may round where all operands are."""
    pairs = zip(request.spec.gradients, request.results, strict=True)
    return any(gradient.role < 3 and result.dtype == np.float32 for gradient, result in pairs)


def _kernel_gradients(spec: AttentionSpec, gradient: Gradient, modifiers: Sequence[Modifier]) -> list[kernel.Gradient]:
    """What the kernel has to compute for `gradient`: one for each modifier that its role is turned into."""
    from zenith_mlir.kernels.cpu import attention_vjp as kernel

    (contracted,) = spec.contracted
    shape = gradient.layout.shape(spec.axes)
    if gradient.role < 3:
        last = (("t", contracted), ("s", contracted), ("s", "e"))[gradient.role]
        return [kernel.Gradient(gradient.role, strides(spec, gradient.layout, *last), shape, gradient.factor)]
    return [
        kernel.Gradient(kernel.FIRST_MODIFIER + i, strides(spec, gradient.layout, "t", "s"), shape)
        for i, modifier in enumerate(modifiers)
        if modifier.role == gradient.role
    ]


def _through_turn(
    spec: AttentionSpec,
    gradient: Gradient,
    modifier: Modifier,
    found: jax.Array,
    roles: Sequence[jax.Array],
) -> jax.Array:
    """The gradient of a role, given that of the modifier (-m, 1/m) that the kernel read in its place."""
    if modifier.turn == "minus":
        return -found
    if modifier.turn == "reciprocal":
        return found * _minus_reciprocal_square(spec, gradient, roles[gradient.role])
    return found


def _minus_reciprocal_square(spec: AttentionSpec, gradient: Gradient, m: jax.Array) -> jax.Array:
    """-1/m², laid out as the gradient and repeated along axes that m lacks."""
    import jax.numpy as jnp

    axes = gradient.layout.axes
    wide = spread(m.astype(jnp.float32), spec.role_layouts[gradient.role], spec.axes, axes)
    repeated = jnp.broadcast_to(wide, plain(axes).shape(spec.axes))
    return -1 / jnp.square(repeated.reshape(gradient.layout.shape(spec.axes)))


def _residuals(
    arrays: tuple[jax.Array, jax.Array, jax.Array], modifiers: Sequence[jax.Array], arguments: dict[str, Any]
) -> tuple[jax.Array, jax.Array]:
    """Maximum and sum of a forward that did not keep them, from a call without value features."""
    import jax.numpy as jnp

    from zenith_mlir.kernels.cpu.attention import attention_residuals_call

    dims, (t, s, d, _) = arguments["dims"], arguments["sizes"]
    empty = {"sizes": (t, s, d, 0), "out_strides": [0] * (len(dims) + 2), "out_shape": (0,), "out_dtype": jnp.float32}
    _, maximum, total = attention_residuals_call(*arrays, modifiers, **arguments | empty)
    return maximum, total


_LIMITS = f"{attention_arguments.LIMITS}; no gradient of a mask, and of a divisor or a sink only along its own axes"
IMPLEMENTATION = Implementation("cpu-flash-vjp", "cpu", refuse, build, work=backward_work, limits=_LIMITS)
