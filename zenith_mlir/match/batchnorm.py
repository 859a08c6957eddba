"""What follows a convolution or a product with weights, as far as it is y A + B with a scale and a shift a channel.

The walk goes down from the result as long as there is one user and it is affine in each channel. That user's other
operand cannot depend on the product, or there would be a second user: so batch statistics, which training takes of the
product itself, never get in.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from math import prod

from jaxlib.mlir import ir

from zenith_mlir.ir.dots import DotDims
from zenith_mlir.ir.facts import (
    defining_op,
    element_type,
    has_static_shape,
    int_list,
    is_float,
    is_float_convert,
    shape,
    splat,
    users,
)
from zenith_mlir.match.channels import is_channel

PRODUCTS = ("stablehlo.convolution", "stablehlo.dot_general")


@dataclass(frozen=True)
class Step:
    """One operation of the tail: `value` is its other operand, `dim` its channels; `first` if the tail is its first
    operand.
    """

    op: ir.Operation
    dim: int
    value: ir.Value | None = None
    first: bool = True


@dataclass
class Tail:
    """`steps` lead from the result of `product`, whose operand `weights` has the channels along `out_dim`."""

    product: ir.Operation
    weights: int
    out_dim: int
    dim: int
    steps: list[Step] = field(default_factory=list)
    shared: ir.Operation | None = None

    @property
    def result(self) -> ir.Value:
        value: ir.Value = self.steps[-1].op.results[0]
        return value

    @property
    def scales(self) -> bool:
        """Whether a channel is multiplied by a number of its own."""
        return any(
            step.op.name in _SCALING and (step.value is None or splat(step.value) is None) for step in self.steps
        )


def match_tail(product: ir.Operation) -> Tail | None:
    """What follows `product`, if that scales channels; `shared` is then the first value on the way with other users."""
    tail = _start(product)
    if tail is None:
        return None
    value, dim = product.results[0], tail.dim
    while True:
        step = _step(value, dim)
        if step is None:
            break
        if tail.shared is None and len(list(value.uses)) > 1:
            tail.shared = defining_op(value)
        tail.steps.append(step)
        value, dim = step.op.results[0], step.dim
    while tail.steps and tail.steps[-1].op.name in _LAYOUT:
        tail.steps.pop()
    return tail if tail.scales else None


def _start(product: ir.Operation) -> Tail | None:
    result = product.results[0]
    if not all(has_static_shape(v) and is_float(element_type(v)) for v in (*product.operands, result)):
        return None
    return _of_convolution(product) if product.name == "stablehlo.convolution" else _of_dot(product)


def _of_convolution(product: ir.Operation) -> Tail | None:
    from jaxlib.mlir.dialects import stablehlo

    if ir.IntegerAttr(product.attributes["batch_group_count"]).value != 1:
        return None
    numbers = stablehlo.ConvDimensionNumbers(product.attributes["dimension_numbers"])
    return Tail(product, 1, numbers.kernel_output_feature_dimension, numbers.output_feature_dimension)


def _of_dot(product: ir.Operation) -> Tail | None:
    """Channels are the last dimension of the result, and of weights that are given to the program and no larger than
    the result: scaling others costs more than it saves.
    """
    dims = DotDims.of(product)
    weights, result = (shape(value) for value in (product.operands[1], product.results[0]))
    free = dims.rhs_free(len(weights))
    if dims.rhs_batch or not free or prod(weights) > prod(result) or not _is_given(product.operands[1]):
        return None
    return Tail(product, 1, free[-1], len(result) - 1)


def _is_given(value: ir.Value) -> bool:
    op = defining_op(value)
    while op is not None and op.name in ("stablehlo.transpose", "stablehlo.reshape", "stablehlo.convert"):
        value = op.operands[0]
        op = defining_op(value)
    return op is None or op.name == "stablehlo.constant"


def _step(value: ir.Value, dim: int) -> Step | None:
    """The first user that is affine in each channel."""
    steps = (take(user, value, dim) for user in users(value) if (take := _STEPS.get(user.name)) is not None)
    return next((step for step in steps if step is not None), None)


def _binary(user: ir.Operation, value: ir.Value, dim: int) -> Step | None:
    left, right = user.operands
    if left == right:
        return None
    other = right if left == value else left
    return Step(user, dim, other, left == value) if is_channel(other, dim) else None


def _divide(user: ir.Operation, value: ir.Value, dim: int) -> Step | None:
    step = _binary(user, value, dim)
    return step if step is not None and step.first else None


def _negate(user: ir.Operation, value: ir.Value, dim: int) -> Step | None:
    return Step(user, dim)


def _convert(user: ir.Operation, value: ir.Value, dim: int) -> Step | None:
    return Step(user, dim) if is_float_convert(user) else None


def _transpose(user: ir.Operation, value: ir.Value, dim: int) -> Step | None:
    return Step(user, int_list(user, "permutation").index(dim))


def _batch_norm(user: ir.Operation, value: ir.Value, dim: int) -> Step | None:
    here = ir.IntegerAttr(user.attributes["feature_index"]).value == dim
    return Step(user, dim) if here and user.operands[0] == value else None


_STEPS: dict[str, Callable[[ir.Operation, ir.Value, int], Step | None]] = {
    "stablehlo.add": _binary,
    "stablehlo.subtract": _binary,
    "stablehlo.multiply": _binary,
    "stablehlo.divide": _divide,
    "stablehlo.negate": _negate,
    "stablehlo.convert": _convert,
    "stablehlo.transpose": _transpose,
    "stablehlo.batch_norm_inference": _batch_norm,
}
_LAYOUT = ("stablehlo.convert", "stablehlo.transpose")
_SCALING = ("stablehlo.multiply", "stablehlo.divide", "stablehlo.batch_norm_inference")


def independent(steps: Sequence[Step], product: ir.Operation, limit: int = 256) -> bool:
    """Whether no other operand of `steps` is computed from `product`, as far as `limit` operations tell."""
    seen: set[ir.Operation] = set()
    stack = [value for step in steps for value in _others(step)]
    while stack:
        op = defining_op(stack.pop())
        if op is None or op in seen:
            continue
        if op == product or len(seen) > limit:
            return False
        seen.add(op)
        stack += op.operands
    return True


def _others(step: Step) -> list[ir.Value]:
    if step.op.name == "stablehlo.batch_norm_inference":
        return list(step.op.operands)[1:]
    return [] if step.value is None else [step.value]
