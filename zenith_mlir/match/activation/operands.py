"""Where an activation's operands come from: a tensor and a bias, the two halves of one tensor, a product."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from jaxlib.mlir import ir

from zenith_mlir.ir.facts import (
    defined_by,
    defining_op,
    element_type,
    float_width,
    int_list,
    is_float,
    is_float_convert,
    shape,
    users,
)
from zenith_mlir.match.activation.cone import constant
from zenith_mlir.match.activation.elementwise import evaluator


@dataclass(frozen=True)
class Biased:
    """tensor [..., f] + bias [f]."""

    tensor: ir.Value
    bias: ir.Value


def biased(value: ir.Value, matmul: bool) -> Biased | None:
    """`value` as a sum with a bias along the last dimension. Where `matmul`, sums with a product of 16-bit floats are
    left to that.
    """
    found = _sum(value)
    return None if found is None or (matmul and _is_short_product(found.tensor)) else found


def follows_short_product(value: ir.Value) -> bool:
    """Whether `value` is a product of 16-bit floats, with a bias or without."""
    found = _sum(value)
    return _is_short_product(value, shared=True) if found is None else _is_short_product(found.tensor)


def _sum(value: ir.Value) -> Biased | None:
    add = defined_by(value, "stablehlo.add")
    if add is None:
        return None
    for tensor, other in (tuple(add.operands), tuple(reversed(list(add.operands)))):
        broadcast = defined_by(other, "stablehlo.broadcast_in_dim")
        if broadcast is None or constant(other) is not None or not shape(value):
            continue
        bias = broadcast.operands[0]
        last = int_list(broadcast, "broadcast_dimensions") == [len(shape(value)) - 1]
        if last and shape(bias) == shape(value)[-1:] and not _is_computed_elementwise(tensor):
            return Biased(tensor, bias)
    return None


def _is_computed_elementwise(value: ir.Value) -> bool:
    """A sum of what was just multiplied is the end of a norm: it is cheap where it stands, and belongs to that."""
    op = defining_op(value)
    while op is not None and is_float_convert(op):
        op = defining_op(op.operands[0])
    return op is not None and evaluator(op) is not None


def _is_short_product(value: ir.Value, shared: bool = False) -> bool:
    """Whether `value` is a product of two 16-bit floats that, unless it is `shared`, only one operation reads."""
    op = defining_op(value)
    while op is not None and (shared or len(users(op.results[0])) == 1) and is_float_convert(op):
        op, shared = defining_op(op.operands[0]), False
    if op is None or op.name != "stablehlo.dot_general" or not (shared or len(users(op.results[0])) == 1):
        return False
    return all(float_width(element_type(operand)) == 16 for operand in op.operands)


def is_tensor(value: ir.Value, dims: tuple[int, ...]) -> bool:
    """Whether `value` is a float tensor of its own: neither a mask nor something repeated."""
    if not dims or not is_float(element_type(value)):
        return False
    op = defining_op(value)
    while op is not None and op.name == "stablehlo.convert":
        if not is_float(element_type(op.operands[0])):
            return False
        op = defining_op(op.operands[0])
    if op is not None and op.name == "stablehlo.select":
        return any(constant(arm) is None for arm in list(op.operands)[1:])
    return op is None or op.name not in ("stablehlo.broadcast_in_dim", "stablehlo.iota")


def halves_of(gate: ir.Value, up: ir.Value) -> tuple[ir.Value, str] | None:
    """The tensor whose halves along the last dimension these are, and which is first, as a swiglu says it."""
    slices = [defined_by(value, "stablehlo.slice") for value in (gate, up)]
    if slices[0] is None or slices[1] is None or slices[0].operands[0] != slices[1].operands[0]:
        return None
    source = slices[0].operands[0]
    *rows, width = shape(source)
    *rest, features = shape(gate)
    starts = [int_list(op, "start_indices") for op in slices if op is not None]
    dense = all(set(int_list(op, "strides")) == {1} for op in slices if op is not None)
    if rest != rows or width != 2 * features or shape(up) != shape(gate) or not dense:
        return None
    order = {(0, features): "gate_first", (features, 0): "gate_last"}.get((starts[0][-1], starts[1][-1]))
    return None if order is None else (source, order)


def gradient_of_halves(gradients: Sequence[ir.Value], order: str) -> ir.Value | None:
    """The gradient of the tensor whose halves' gradients these are, if nothing else uses them."""
    first, second = gradients if order == "gate_first" else reversed(gradients)
    readers = [users(first), users(second)]
    if any(len(of_one) != 1 for of_one in readers):
        return None
    (a,), (b,) = readers
    if a == b and a.name == "stablehlo.concatenate":
        return _concatenated(a, first, second)
    return _padded(a, b, shape(first)[-1])


def _concatenated(op: ir.Operation, first: ir.Value, second: ir.Value) -> ir.Value | None:
    along = ir.IntegerAttr(op.attributes["dimension"]).value
    result: ir.Value = op.results[0]
    return result if list(op.operands) == [first, second] and along == len(shape(first)) - 1 else None


def _padded(a: ir.Operation, b: ir.Operation, features: int) -> ir.Value | None:
    """Each filled up with zeros where the other is, and added."""
    if not (_pads(a, 0, features) and _pads(b, features, 0)):
        return None
    sums = [users(op.results[0]) for op in (a, b)]
    if sums[0] != sums[1] or len(sums[0]) != 1 or sums[0][0].name != "stablehlo.add":
        return None
    result: ir.Value = sums[0][0].results[0]
    return result


def _pads(op: ir.Operation, low: int, high: int) -> bool:
    if op.name != "stablehlo.pad":
        return False
    zero = constant(op.operands[1])
    rank = len(shape(op.operands[0]))
    rest = [0] * (rank - 1)
    edges = [int_list(op, f"edge_padding_{side}") for side in ("low", "high")]
    none_inside = not any(int_list(op, "interior_padding"))
    return zero is not None and zero.at == 0 and edges == [[*rest, low], [*rest, high]] and none_inside
