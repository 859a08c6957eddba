"""Numbers of rows, brought to the form that an operand or a result of the composite has, and back.

What a program computes of a row may have another shape, sign or type than the composite's: the difference becomes
operations on both sides of the composite's border that undo each other.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from jaxlib.mlir import ir

from zenith_mlir.canonical import build
from zenith_mlir.ir.facts import defined_by, element_type, float_width, int_list, producer, shape


def scaled(value: ir.Value, factor: float) -> ir.Value:
    """`value` times `factor`; nothing for 1, and a negation for -1."""
    if factor == 1:
        return value
    if factor == -1:
        return build.elementwise("negate", value)
    return build.elementwise("multiply", value, build.splat_constant(value.type, factor))


def shaped(value: ir.Value, dims: Sequence[int]) -> ir.Value:
    if shape(value) == tuple(dims):
        return value
    return build.reshape(value, build.tensor(dims, element_type(value)))


def typed(value: ir.Value, element: ir.Type) -> ir.Value:
    return value if element_type(value) == element else build.convert(value, element)


def wide(element: ir.Type) -> ir.Type:
    """The type in which the composite has a number of type `element`."""
    return ir.F32Type.get() if 0 < float_width(element) < 32 else element


def can_be_rows(value: ir.Value, rows: Sequence[int]) -> bool:
    """Whether `value` is one number a row, or repeats numbers along the columns and maybe the rows."""
    return math.prod(shape(value)) == math.prod(rows) or _repeated(value, rows) is not None


def as_rows(value: ir.Value, rows: Sequence[int]) -> ir.Value:
    """`value`, which can be that, as one number a row, of a type that the composite has."""
    op = None if math.prod(shape(value)) == math.prod(rows) else _repeated(value, rows)
    if op is not None:
        dims = int_list(op, "broadcast_dimensions")
        value = build.broadcast_in_dim(op.operands[0], dims, build.tensor(rows, element_type(value)))
    return typed(shaped(value, rows), wide(element_type(value)))


def _repeated(value: ir.Value, rows: Sequence[int]) -> ir.Operation | None:
    """The broadcast that repeats numbers of rows as `value`."""
    op = defined_by(value, "stablehlo.broadcast_in_dim")
    inside = op is not None and all(dim < len(rows) for dim in int_list(op, "broadcast_dimensions"))
    return op if inside and shape(value)[: len(rows)] == tuple(rows) else None


def like(row: ir.Value, value: ir.Value) -> ir.Value:
    """One number a row in the shape and type of `value`, repeated along the last dimension where that has columns."""
    row = typed(row, element_type(value))
    if math.prod(shape(value)) == math.prod(shape(row)):
        return shaped(row, shape(value))
    return build.broadcast_in_dim(row, list(range(len(shape(row)))), ir.RankedTensorType(value.type))


@dataclass(frozen=True)
class Export:
    """`result` is what the composite gives, made by `ops` of a value for which `back` stands from then on; that is the
    result itself where there is none.
    """

    result: ir.Value
    ops: list[ir.Operation]
    back: ir.Value | None


def exported(value: ir.Value, rows: Sequence[int], sign: float) -> Export:
    """`value`, which is `sign` times a result of the composite."""
    if shape(value) == tuple(rows) and sign == 1 and element_type(value) == wide(element_type(value)):
        return Export(value, [], None)
    op = producer(value)
    with op.location, ir.InsertionPoint.after(op):
        result = typed(scaled(shaped(value, rows), sign), wide(element_type(value)))
        back = shaped(scaled(typed(result, element_type(value)), sign), shape(value))
    ops = chain(result, value)
    for use in list(value.uses):
        if use.owner.operation != ops[0]:
            use.owner.operation.operands[use.operand_number] = back
    return Export(result, ops, back)


def chain(last: ir.Value, first: ir.Value) -> list[ir.Operation]:
    """The operations from `first` to `last`, each of one tensor."""
    found: list[ir.Operation] = []
    while last != first:
        op = producer(last)
        found.append(op)
        last = op.operands[0]
    return list(reversed(found))
