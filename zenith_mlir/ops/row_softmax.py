"""What `softmax` and `log_softmax` have in common."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend.core import Primitive

from zenith_mlir.dialects.softmax import SoftmaxSpec
from zenith_mlir.dialects.softmax_vjp import SoftmaxVjpSpec
from zenith_mlir.ops.arguments import booleans, check, floating
from zenith_mlir.ops.batching import rows
from zenith_mlir.ops.primitive import Gradient, Operation, bind, define


def define_softmax(
    spec: type[SoftmaxSpec],
    reference: Callable[..., Any],
    vjp_spec: type[SoftmaxVjpSpec],
    reference_vjp: Callable[..., Any],
) -> Primitive:
    """The primitive of the softmax with these specs and formulas. Its gradient reads the result, not the operand."""
    batched = rows(lambda spec, operands: ([True] * operands, [True]))

    def formula(x: Any, *, spec: SoftmaxSpec) -> tuple[Any]:
        return (reference(spec, x),)

    def formula_vjp(y: Any, cotangent: Any, *, spec: SoftmaxVjpSpec) -> tuple[Any]:
        return (reference_vjp(spec, y, cotangent),)

    vjp = define(Operation(vjp_spec.OP, formula_vjp, vjp_spec.to_attributes, batched))

    def pull(
        spec: SoftmaxSpec, operands: Sequence[Any], results: Sequence[Any], cotangents: Sequence[Any], wanted: Any
    ) -> Any:
        return bind(vjp, vjp_spec(scale=spec.scale), results[0], cotangents[0])

    gradient = Gradient(keep=lambda spec: spec, results=lambda spec: 1, pull=pull)
    return define(Operation(spec.OP, formula, spec.to_attributes, batched, gradient))


def along(
    primitive: Primitive, op: str, spec: SoftmaxSpec, x: Any, axis: int | Sequence[int], where: Any, masked: float
) -> jax.Array:
    """`primitive` along `axis`, which is moved to the end and back."""
    (x,) = floating(op, x=x)
    axes = [axis] if isinstance(axis, int) else list(axis)
    check(
        op,
        bool(axes) and all(-x.ndim <= a < x.ndim for a in axes) and len({a % x.ndim for a in axes}) == len(axes),
        f"axis is {axis}, expected one or several of the {x.ndim} axes of x",
    )
    if where is not None:
        where = booleans(op, "where", where)
        check(
            op,
            _broadcasts(where.shape, x.shape),
            f"where has shape {list(where.shape)}, expected one that broadcasts to that of x, {list(x.shape)}",
        )
        x = jnp.where(where, x, -jnp.inf)
    last = list(range(x.ndim - len(axes), x.ndim))
    turned = jnp.moveaxis(x, axes, last)
    flat = turned.reshape((*turned.shape[: last[0]], math.prod(turned.shape[last[0] :])))
    (y,) = bind(primitive, spec, flat)
    y = jnp.moveaxis(y.reshape(turned.shape), last, axes)
    return y if where is None else jnp.where(where, y, masked)


def _broadcasts(shape: Sequence[int], to: Sequence[int]) -> bool:
    try:
        return jnp.broadcast_shapes(tuple(shape), tuple(to)) == tuple(to)
    except ValueError:
        return False
