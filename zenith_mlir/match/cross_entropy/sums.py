"""Losses that are never one number a row: -Σ one_hot · log_softmax(x) summed over everything at once.

The sum is split in two, along the columns and over the rows, so that the first is the loss of each row.
"""

from __future__ import annotations

from jaxlib.mlir import ir

from zenith_mlir.canonical import build
from zenith_mlir.ir.facts import element_type, int_list, reduction, splat, users
from zenith_mlir.ir.outline import clone_op
from zenith_mlir.match.algebra.polynomial import NotPolynomial
from zenith_mlir.match.cross_entropy.formula import loss_terms
from zenith_mlir.match.cross_entropy.reader import CrossEntropyReader


def split_sums(reader: CrossEntropyReader, wide: list[ir.Value]) -> list[ir.Value]:
    """Split sums of values in `wide`, which have the extent of the logits, where the rows' own sums are losses.

    Returns: those sums of rows.
    """
    last = reader.dim
    found = []
    for value in wide:
        for op in users(value):
            dims = int_list(op, "dimensions") if reduction(op) == "stablehlo.add" else []
            if last in dims and len(dims) > 1 and splat(op.operands[1]) == 0 and _sums_to_a_loss(reader, value):
                found.append(_split(op, reader))
    return found


def _sums_to_a_loss(reader: CrossEntropyReader, value: ir.Value) -> bool:
    try:
        total = reader.total(reader.read(value, reader.view), (reader.column,))
    except NotPolynomial:
        return False
    return loss_terms(reader, total) is not None


def _split(op: ir.Operation, reader: CrossEntropyReader) -> ir.Value:
    """Two sums in the place of `op`: along the columns, and along the rows."""
    operand, last = op.operands[0], reader.dim
    rest = [dim - (dim > last) for dim in int_list(op, "dimensions") if dim != last]
    with op.location, ir.InsertionPoint(op):
        rows = _sum(op, operand, [last], build.tensor(reader.row_dims, element_type(operand)))
        total = _sum(op, rows, rest, op.results[0].type)
    op.results[0].replace_all_uses_with(total)
    op.erase()
    return rows


def _sum(like: ir.Operation, operand: ir.Value, dims: list[int], type_: ir.Type) -> ir.Value:
    """The sum of `operand` along `dims`, from where `like` begins and as it adds."""
    attributes: dict[str, ir.Attribute] = {"dimensions": ir.DenseI64ArrayAttr.get(dims)}
    made = ir.Operation.create("stablehlo.reduce", [type_], [operand, like.operands[1]], attributes, regions=1)
    body = like.regions[0].blocks[0]
    block = made.regions[0].blocks.append(*(argument.type for argument in body.arguments))
    with ir.InsertionPoint(block):
        mapping = dict(zip(body.arguments, block.arguments, strict=True))
        for inner in body.operations:
            clone_op(inner.operation, mapping)
    result: ir.Value = made.results[0]
    return result
