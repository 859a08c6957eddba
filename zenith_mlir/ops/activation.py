"""What `gelu` and `silu` have in common: an activation of x + bias."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
from jax.extend.core import Primitive

from zenith_mlir.ops.arguments import check, check_shape, floating, present
from zenith_mlir.ops.batching import rows
from zenith_mlir.ops.primitive import Gradient, Operation, bind, define
from zenith_mlir.ops.sums import over_rows


def define_activation(name: str, reference: Callable[..., Any], reference_vjp: Callable[..., Any]) -> Primitive:
    """The primitive of the activation `name` with these formulas. Operands: x, and a bias if there is one."""

    def formula(*operands: Any, spec: Any) -> tuple[Any]:
        return (reference(spec, *operands),)

    def formula_vjp(*operands: Any, spec: Any) -> tuple[Any]:
        return (reference_vjp(spec, *operands),)

    def by_row(spec: Any, operands: int) -> tuple[Sequence[bool], Sequence[bool]]:
        return [not (spec.bias and i == 1) for i in range(operands)], [True]

    def attributes(spec: Any) -> Any:
        return spec.to_attributes()

    batched = rows(by_row)
    vjp = define(Operation(f"{name}_vjp", formula_vjp, attributes, batched))

    def pull(
        spec: Any, operands: Sequence[Any], results: Sequence[Any], cotangents: Sequence[Any], wanted: Sequence[int]
    ) -> list[Any]:
        (dx,) = bind(vjp, spec, *operands, cotangents[0])
        return [dx if i == 0 else over_rows(dx, operands[i]) for i in wanted]

    gradient = Gradient(keep=lambda spec: spec, results=lambda spec: 1, pull=pull)
    return define(Operation(name, formula, attributes, batched, gradient))


def activate(primitive: Primitive, op: str, spec: Callable[[bool], Any], x: Any, bias: Any) -> jax.Array:
    """Check the arguments and bind `primitive`; `spec` takes whether there is a bias."""
    (x,), rest = floating(op, x=x), present(op, bias=bias)
    for array in rest:
        check_shape(op, "bias", array, x.shape[-1:], f"one number a feature of x, which has shape {list(x.shape)}")
    check(op, not rest or x.ndim > 0, "x is a scalar, which has no features that a bias could be added to")
    (out,) = bind(primitive, spec(bool(rest)), *(array for array in (x, *rest)))
    return out
