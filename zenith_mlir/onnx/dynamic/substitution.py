"""Making a module static: witnesses for dimensions in every type, static counterparts for dynamic operations."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxlib.mlir import ir

from zenith_mlir.ir.facts import blocks, defined_by, element_type, producer, shape, walk
from zenith_mlir.ir.inline import replace_op
from zenith_mlir.ir.symbols import functions
from zenith_mlir.onnx.dynamic.counterparts import Counterpart, Cut
from zenith_mlir.onnx.dynamic.numbers import Numbers
from zenith_mlir.onnx.dynamic.reader import Reader, is_dynamic
from zenith_mlir.onnx.dynamic.shapes import Shape
from zenith_mlir.onnx.dynamic.tables import cut
from zenith_mlir.onnx.dynamic.witness import Witnesses

__all__ = ["make_static"]


def make_static(module: ir.Operation, main: ir.Operation, reader: Reader, witnesses: Witnesses) -> None:
    """Give every value of `main` its static type, and replace dynamic operations and assertions."""
    for block in blocks(main):
        _set_types(list(block.arguments), reader, witnesses)
    for op in walk(main):
        _set_types(list(op.results), reader, witnesses)
        for block in blocks(op):
            _set_types(list(block.arguments), reader, witnesses)
    for op in reader.assertions:
        op.erase()
    for op, counterpart in reader.counterparts.items():
        replace_op(op, _build(module, op, counterpart, reader, witnesses))


def _set_types(values: Sequence[ir.Value], reader: Reader, witnesses: Witnesses) -> None:
    for value in values:
        if is_dynamic(value):
            value.set_type(_type(reader.shape(value), value, witnesses))


def _type(shape: Shape, like: ir.Value, witnesses: Witnesses) -> ir.Type:
    return ir.RankedTensorType.get([witnesses.value(size) for size in shape], element_type(like))


def _build(
    module: ir.Operation, op: ir.Operation, counterpart: Counterpart, reader: Reader, witnesses: Witnesses
) -> list[ir.Value]:
    if counterpart.cut is not None:
        return [_cut(op, counterpart.cut, counterpart.shapes[0], reader, witnesses)]
    attributes: dict[str, ir.Attribute] = {
        name: op.attributes[name] for name in counterpart.kept if name in op.attributes
    }
    for name, array in counterpart.integers.items():
        attributes[name] = _integers(array, reader, witnesses)
    with ir.InsertionPoint(op), op.location:
        operands = [op.operands[i] for i in counterpart.operands]
        if counterpart.starts is not None:
            start = op.operands[counterpart.starts]
            operands += _elements(producer(start).operands[1] if counterpart.clamped else start)
        types = [
            _type(tuple(map(reader.resolve, each)), result, witnesses)
            for each, result in zip(counterpart.shapes, op.results, strict=True)
        ]
        made = ir.Operation.create(
            counterpart.name, types, operands, attributes, regions=int(counterpart.called is not None)
        )
        if counterpart.called is not None:
            _fill(made.regions[0], functions(module)[counterpart.called])
    return list(made.results)


def _cut(op: ir.Operation, taken: Cut, shape: Shape, reader: Reader, witnesses: Witnesses) -> ir.Value:
    operand, start = list(op.operands)[:2]
    sizes = [witnesses.value(reader.resolve(size)) for size in taken.sizes]
    with ir.InsertionPoint(op), op.location:
        starts: list[ir.Value | None] = [None] * len(sizes)
        for axis, value, number in zip(taken.axes, _elements(start), reader.numbers(start).reshape(-1), strict=True):
            starts[axis] = None if number.constant == 0 else value
        table = cut(operand, starts, sizes)
        type_ = _type(tuple(map(reader.resolve, shape)), op.results[0], witnesses)
        return table if table.type == type_ else ir.Operation.create("stablehlo.reshape", [type_], [table]).results[0]


def _integers(array: Numbers, reader: Reader, witnesses: Witnesses) -> ir.Attribute:
    values = np.vectorize(lambda each: witnesses.value(reader.resolve(each)), otypes=[np.int64])(array)
    i64 = ir.IntegerType.get_signless(64)
    if array.ndim == 0:
        return ir.IntegerAttr.get(i64, int(values))
    if array.ndim == 1:
        return ir.DenseI64ArrayAttr.get([int(each) for each in values])
    matrix: ir.Attribute = ir.DenseElementsAttr.get(np.ascontiguousarray(values), type=i64)  # type: ignore[call-overload]
    return matrix


def _elements(vector: ir.Value) -> list[ir.Value]:
    """Each element as a scalar: as it was before it was concatenated, or cut out."""
    (length,) = shape(vector)
    joined = defined_by(vector, "stablehlo.concatenate")
    if joined is not None and len(joined.operands) == length:
        return [_as_scalar(operand) for operand in joined.operands]
    line = ir.RankedTensorType.get([1], element_type(vector))
    cut = []
    for i in range(length):
        ends: dict[str, ir.Attribute] = {
            name: ir.DenseI64ArrayAttr.get([value])
            for name, value in (("start_indices", i), ("limit_indices", i + 1), ("strides", 1))
        }
        cut.append(ir.Operation.create("stablehlo.slice", [line], [vector], ends).results[0])
    return [_as_scalar(value) for value in cut]


def _as_scalar(value: ir.Value) -> ir.Value:
    reshaped = defined_by(value, "stablehlo.reshape")
    if reshaped is not None and not shape(reshaped.operands[0]):
        scalar: ir.Value = reshaped.operands[0]
    else:
        type_ = ir.RankedTensorType.get([], element_type(value))
        scalar = ir.Operation.create("stablehlo.reshape", [type_], [value]).results[0]
    return scalar


def _fill(region: ir.Region, function: ir.Operation) -> None:
    """The body of `function` as the body of `region`."""
    source = function.regions[0].blocks[0]
    block = region.blocks.append(*(argument.type for argument in source.arguments))
    copies = dict(zip(source.arguments, block.arguments, strict=True))
    with ir.InsertionPoint(block):
        for op in source.operations:
            copy = op.operation.clone()
            for i, operand in enumerate(op.operation.operands):
                copy.operands[i] = copies[operand]
            copies.update(zip(op.operation.results, copy.results, strict=True))
