"""Building the few StableHLO operations that rewrites need, at the current insertion point and location."""

from __future__ import annotations

from collections.abc import Sequence

from jaxlib.mlir import ir

from zenith_mlir.ir.facts import Number, element_type, shape, splat_attribute


def tensor(dims: Sequence[int], element: ir.Type) -> ir.RankedTensorType:
    return ir.RankedTensorType.get(list(dims), element)


def splat_constant(type_: ir.Type, number: Number) -> ir.Value:
    return constant(splat_attribute(type_, number))


def constant(attribute: ir.DenseElementsAttr) -> ir.Value:
    return _one("stablehlo.constant", attribute.type, [], value=attribute)


def broadcast_in_dim(value: ir.Value, dims: Sequence[int], type_: ir.Type) -> ir.Value:
    return _one("stablehlo.broadcast_in_dim", type_, [value], broadcast_dimensions=ir.DenseI64ArrayAttr.get(list(dims)))


def transpose(value: ir.Value, permutation: Sequence[int]) -> ir.Value:
    dims = shape(value)
    type_ = tensor([dims[i] for i in permutation], element_type(value))
    return _one("stablehlo.transpose", type_, [value], permutation=ir.DenseI64ArrayAttr.get(list(permutation)))


def reshape(value: ir.Value, type_: ir.Type) -> ir.Value:
    return _one("stablehlo.reshape", type_, [value])


def convert(value: ir.Value, element: ir.Type) -> ir.Value:
    return _one("stablehlo.convert", tensor(shape(value), element), [value])


def iota(type_: ir.Type, dim: int) -> ir.Value:
    return _one("stablehlo.iota", type_, [], iota_dimension=ir.IntegerAttr.get(ir.IntegerType.get_signless(64), dim))


def elementwise(name: str, *operands: ir.Value) -> ir.Value:
    """`stablehlo.<name>` whose result has the type of its last operand."""
    return _one(f"stablehlo.{name}", operands[-1].type, list(operands))


def rebuilt(op: ir.Operation, operands: Sequence[ir.Value], **changed: ir.Attribute) -> ir.Value:
    """`op` again with other operands and some attributes changed."""
    clone = op.clone()
    for i, operand in enumerate(operands):
        clone.operands[i] = operand
    for name, attribute in changed.items():
        clone.attributes[name] = attribute
    result: ir.Value = clone.results[0]
    return result


def _one(name: str, type_: ir.Type, operands: list[ir.Value], **attributes: ir.Attribute) -> ir.Value:
    op = ir.Operation.create(name, results=[type_], operands=operands, attributes=attributes)
    result: ir.Value = op.results[0]
    return result
