"""Arithmetic that does nothing is dropped; constants stand on the right of commutative operations."""

from __future__ import annotations

import math
from collections.abc import Sequence

from jaxlib.mlir import ir

from zenith_mlir.canonical import build
from zenith_mlir.ir.facts import defined_by, element_type, has_static_shape, int_list, is_float, shape, splat

Values = Sequence[ir.Value] | None


def constant_on_the_right(op: ir.Operation) -> Values:
    lhs, rhs = op.operands
    is_constant = [defined_by(value, "stablehlo.constant") is not None for value in (lhs, rhs)]
    return [build.rebuilt(op, [rhs, lhs])] if is_constant == [True, False] else None


def drop_neutral_operand(op: ir.Operation) -> Values:
    """x + (-0.0), x - 0, x * 1, x / 1, max(x, -inf), min(x, inf), and the integer forms. x + 0.0 stays: it turns -0.0
    into 0.0.
    """
    number = splat(op.operands[1])
    if number is None:
        return None
    is_neutral = _NEUTRAL[op.name][0 if is_float(element_type(op.results[0])) else 1]
    return [op.operands[0]] if is_neutral(number) else None


def _negative_zero(x: float) -> bool:
    return x == 0 and math.copysign(1.0, x) < 0


def _positive_zero(x: float) -> bool:
    return x == 0 and math.copysign(1.0, x) > 0


def _never(_: float) -> bool:
    return False


_NEUTRAL = {
    "stablehlo.add": (_negative_zero, lambda x: x == 0),
    "stablehlo.subtract": (_positive_zero, lambda x: x == 0),
    "stablehlo.multiply": (lambda x: x == 1, lambda x: x == 1),
    "stablehlo.divide": (lambda x: x == 1, lambda x: x == 1),
    "stablehlo.maximum": (lambda x: x == -math.inf, _never),
    "stablehlo.minimum": (lambda x: x == math.inf, _never),
}


def drop_double_negation(op: ir.Operation) -> Values:
    inner = defined_by(op.operands[0], op.name)
    return None if inner is None else [inner.operands[0]]


def outer_product_to_multiply(op: ir.Operation) -> Values:
    """A dot_general that contracts nothing is a broadcast multiplication (einsum writes head masks and outer products
    so).
    """
    from zenith_mlir.ir.dots import DotDims

    dims = DotDims.of(op)
    lhs, rhs, result = op.operands[0], op.operands[1], op.results[0]
    one_type = element_type(lhs) == element_type(rhs) == element_type(result)
    static = all(has_static_shape(value) for value in (lhs, rhs, result))
    if dims.lhs_contracting or not one_type or not static or "algorithm" in op.attributes:
        return None
    lhs_free = dims.lhs_free(len(shape(lhs)))
    rhs_free = dims.rhs_free(len(shape(rhs)))
    batch = len(dims.lhs_batch)
    lhs_dims, rhs_dims = [0] * len(shape(lhs)), [0] * len(shape(rhs))
    for i, (a, b) in enumerate(zip(dims.lhs_batch, dims.rhs_batch, strict=True)):
        lhs_dims[a] = rhs_dims[b] = i
    for i, a in enumerate(lhs_free):
        lhs_dims[a] = batch + i
    for i, b in enumerate(rhs_free):
        rhs_dims[b] = batch + len(lhs_free) + i
    wide = [build.broadcast_in_dim(v, d, result.type) for v, d in ((lhs, lhs_dims), (rhs, rhs_dims))]
    return [build.elementwise("multiply", *wide)]


def square_to_multiply(op: ir.Operation) -> Values:
    """chlo.square of real numbers is x * x; programs write both."""
    x = op.operands[0]
    is_real = not isinstance(element_type(x), ir.ComplexType)
    return [build.elementwise("multiply", x, x)] if is_real else None


def drop_lonely_concatenate(op: ir.Operation) -> Values:
    return [op.operands[0]] if len(op.operands) == 1 else None


def drop_zero_pad(op: ir.Operation) -> Values:
    pads = [p for name in ("edge_padding_low", "edge_padding_high", "interior_padding") for p in int_list(op, name)]
    return None if any(pads) else [op.operands[0]]


RULES = {
    "stablehlo.add": [constant_on_the_right, drop_neutral_operand],
    "stablehlo.subtract": [drop_neutral_operand],
    "stablehlo.multiply": [constant_on_the_right, drop_neutral_operand],
    "stablehlo.divide": [drop_neutral_operand],
    "stablehlo.maximum": [constant_on_the_right, drop_neutral_operand],
    "stablehlo.minimum": [constant_on_the_right, drop_neutral_operand],
    "stablehlo.negate": [drop_double_negation],
    "stablehlo.dot_general": [outer_product_to_multiply],
    "chlo.square": [square_to_multiply],
    "stablehlo.concatenate": [drop_lonely_concatenate],
    "stablehlo.pad": [drop_zero_pad],
}
