"""Symbolic sizes cut out of static ones: `mask[:, :s]` of a mask of 1024 x 1024, `positions[:s]` of a table of 1024.

The witness of s is larger than the table, so no slice can say it. Where the table is made of indices, as causal masks
are, it is made again in the size of the cut, and stays a mask that passes recognise. Any other table is gathered by
start + 0, 1, ..., s - 1, which means the same at every s that the program allows.
"""

from __future__ import annotations

from collections.abc import Sequence

from jaxlib.mlir import ir
from jaxlib.mlir.dialects import stablehlo

from zenith_mlir.ir.facts import defining_op, element_type, int_list, shape, splat
from zenith_mlir.onnx.dynamic.shapes import ELEMENTWISE, integer

__all__ = ["cut"]

Starts = Sequence[ir.Value | None]
_MAX_DEPTH = 16
_I32 = 32


def cut(table: ir.Value, starts: Starts, sizes: Sequence[int]) -> ir.Value:
    """`sizes` elements of `table` from `starts` on, scalars of which None is 0, at the insertion point."""
    if _is_index_made(table):
        return _made_again(table, starts, sizes)
    for axis, (start, size) in enumerate(zip(starts, sizes, strict=True)):
        if start is not None or size != shape(table)[axis]:
            table = _rows(table, axis, start, size)
    return table


def _is_index_made(value: ir.Value, depth: int = 0) -> bool:
    """Whether only iotas, splats and elementwise operations lead to `value`."""
    op = defining_op(value)
    if op is None or depth > _MAX_DEPTH:
        return False
    name = op.name.removeprefix("stablehlo.")
    if name == "iota" or splat(value) is not None:
        return True
    follows = name in ELEMENTWISE - {"map"} and all(shape(operand) == shape(value) for operand in op.operands)
    if follows or name in ("broadcast_in_dim", "transpose") or (name == "reshape" and _kept(op) is not None):
        return all(_is_index_made(operand, depth + 1) for operand in op.operands)
    return False


def _made_again(value: ir.Value, starts: Starts, sizes: Sequence[int]) -> ir.Value:
    op = defining_op(value)
    if op is None or (list(sizes) == list(shape(value)) and not any(start is not None for start in starts)):
        return value
    type_ = ir.RankedTensorType.get(sizes, element_type(value))
    number = splat(value)
    if number is not None:
        element = ir.DenseElementsAttr(op.attributes["value"]).get_splat_value()
        return _create("stablehlo.constant", type_, [], value=ir.DenseElementsAttr.get_splat(type_, element))
    if op.name == "stablehlo.iota":
        axis = integer(op, "iota_dimension")
        return _counted(type_, axis, starts[axis])
    # Iterating attributes gives names on newer bindings and NamedAttributes on older ones.
    names = [named if isinstance(named, str) else named.name for named in op.attributes]
    kept = {name: op.attributes[name] for name in names}
    operands = []
    for operand in op.operands:
        axes = _axes(op, operand)
        own = shape(operand)
        taken = [own[i] if axis is None else sizes[axis] for i, axis in enumerate(axes)]
        begun = [None if axis is None else starts[axis] for axis in axes]
        operands.append(_made_again(operand, begun, taken))
    return _create(op.name, type_, operands, **kept)


def _axes(op: ir.Operation, operand: ir.Value) -> list[int | None]:
    """For each dimension of the operand the one of the result that it is; None for one that is repeated or dropped."""
    if op.name == "stablehlo.broadcast_in_dim":
        own, result = shape(operand), shape(op.results[0])
        dims = int_list(op, "broadcast_dimensions")
        return [d if own[i] == result[d] else None for i, d in enumerate(dims)]
    if op.name == "stablehlo.transpose":
        permutation = int_list(op, "permutation")
        return [permutation.index(i) for i in range(len(permutation))]
    if op.name == "stablehlo.reshape":
        return _kept(op) or []
    return list(range(len(shape(operand))))


def _kept(op: ir.Operation) -> list[int | None] | None:
    """`_axes` of a reshape that adds or drops dimensions of size 1; None for another one."""
    old, new = shape(op.operands[0]), shape(op.results[0])
    wide = [d for d, size in enumerate(new) if size != 1]
    if [size for size in old if size != 1] != [new[d] for d in wide]:
        return None
    return [None if size == 1 else wide.pop(0) for size in old]


def _counted(type_: ir.Type, axis: int, start: ir.Value | None) -> ir.Value:
    line = _create(
        "stablehlo.iota", type_, [], iota_dimension=ir.IntegerAttr.get(ir.IntegerType.get_signless(64), axis)
    )
    if start is None:
        return line
    element = ir.RankedTensorType(type_).element_type
    scalar = ir.RankedTensorType.get([], element)
    begun = start if start.type == scalar else _create("stablehlo.convert", scalar, [start])
    spread = _create("stablehlo.broadcast_in_dim", type_, [begun], broadcast_dimensions=ir.DenseI64ArrayAttr.get([]))
    return _create("stablehlo.add", type_, [line, spread])


def _rows(table: ir.Value, axis: int, start: ir.Value | None, size: int) -> ir.Value:
    """stablehlo.gather of whole rows along an axis."""
    dims = list(shape(table))
    integers = ir.IntegerType.get_signless(_I32)
    indices = _counted(ir.RankedTensorType.get([size], integers), 0, start)
    numbers = stablehlo.GatherDimensionNumbers.get(
        offset_dims=[d for d in range(len(dims)) if d != axis],
        collapsed_slice_dims=[axis],
        operand_batching_dims=[],
        start_indices_batching_dims=[],
        start_index_map=[axis],
        index_vector_dim=1,
    )
    result = ir.RankedTensorType.get([*dims[:axis], size, *dims[axis + 1 :]], element_type(table))
    taken = ir.DenseI64ArrayAttr.get([1 if d == axis else each for d, each in enumerate(dims)])
    return _create(
        "stablehlo.gather", result, [table, indices], dimension_numbers=numbers, slice_sizes=taken,
        indices_are_sorted=ir.BoolAttr.get(True),
    )  # fmt: skip


def _create(name: str, type_: ir.Type, operands: Sequence[ir.Value], **attributes: ir.Attribute) -> ir.Value:
    made: ir.Value = ir.Operation.create(name, [type_], operands, attributes).results[0]
    return made
