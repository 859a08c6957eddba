"""Outlining: matched operations move, unchanged, into a private function that a stablehlo.composite names as its
decomposition.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from jaxlib.mlir import ir

from zenith_mlir.ir.facts import defined_by, producer
from zenith_mlir.ir.symbols import unique_name


def outline_composite(
    module: ir.Operation,
    name: str,
    ops: Sequence[ir.Operation],
    operands: Sequence[ir.Value],
    results: Sequence[ir.Value],
    attributes: Mapping[str, ir.Attribute],
    before: ir.Operation | None = None,
    aliases: Mapping[ir.Value, ir.Value] | None = None,
) -> ir.Operation:
    """Put a composite called `name` where the first of `results` is computed, or `before` an operation; its
    decomposition is a copy of `ops`.

    Args:
      module: the builtin.module operation that receives the decomposition.
      name: composite name, e.g. "zenith.attention".
      ops: the matched operations in program order; all they use is defined by `operands`, by one another or by
        constants.
      operands: what the composite takes, in order.
      results: values of `ops` that the composite replaces. All their users move to the composite; the other matched
        operations stay where somebody else still uses them and are erased where nobody does.
      attributes: what was recognised.
      aliases: values that `ops` use, and what equals them and stands for them in the decomposition.

    Returns: the composite.
    """
    func = _decomposition(module, name.replace(".", "_"), ops, operands, results, aliases or {})
    anchor = before or producer(results[0])
    with anchor.location, ir.InsertionPoint(anchor):
        composite = ir.Operation.create(
            "stablehlo.composite",
            results=[result.type for result in results],
            operands=list(operands),
            attributes={
                "name": ir.StringAttr.get(name),
                "composite_attributes": ir.DictAttr.get(dict(attributes)),
                "decomposition": ir.FlatSymbolRefAttr.get(func),
                "version": ir.IntegerAttr.get(ir.IntegerType.get_signless(32), 1),
            },
        )
    for result, replacement in zip(results, composite.results, strict=True):
        result.replace_all_uses_with(replacement)
    constants = {source for op in ops for value in op.operands if (source := _constant(value)) is not None}
    for op in [*reversed(ops), *constants]:
        erase_if_unused(op)
    return composite


def erase_if_unused(op: ir.Operation) -> None:
    if not any(True for res in op.results for _ in res.uses):
        op.erase()


def _decomposition(
    module: ir.Operation,
    stem: str,
    ops: Sequence[ir.Operation],
    operands: Sequence[ir.Value],
    results: Sequence[ir.Value],
    aliases: Mapping[ir.Value, ir.Value],
) -> str:
    name = unique_name(module, stem)
    signature = ir.FunctionType.get([value.type for value in operands], [value.type for value in results])
    location = producer(results[0]).location
    with ir.InsertionPoint(module.regions[0].blocks[0]), location:
        func = ir.Operation.create(
            "func.func",
            regions=1,
            attributes={
                "sym_name": ir.StringAttr.get(name),
                "sym_visibility": ir.StringAttr.get("private"),
                "function_type": ir.TypeAttr.get(signature),
            },
        )
        block = func.regions[0].blocks.append(*signature.inputs, arg_locs=[location] * len(operands))
    with ir.InsertionPoint(block):
        mapping: dict[ir.Value, ir.Value] = dict(zip(operands, block.arguments, strict=True))
        for op in ops:
            mapping.update((value, mapping[same]) for value, same in aliases.items() if same in mapping)
            clone_op(op, mapping)
        with location:
            ir.Operation.create("func.return", operands=[mapping[result] for result in results])
    return name


def clone_op(op: ir.Operation, mapping: dict[ir.Value, ir.Value]) -> ir.Operation:
    """Clone `op` at the insertion point with operands taken through `mapping`; constants it uses come along."""
    values = [_mapped(operand, mapping) for operand in op.operands]
    clone = op.clone()
    for i, value in enumerate(values):
        clone.operands[i] = value
    mapping.update(zip(op.results, clone.results, strict=True))
    return clone


def _mapped(value: ir.Value, mapping: dict[ir.Value, ir.Value]) -> ir.Value:
    if value not in mapping:
        constant = _constant(value)
        assert constant is not None, (
            f"the outlined region uses {value}, which is neither an operand of the composite nor a constant"
        )
        clone_op(constant, mapping)
    return mapping[value]


def _constant(value: ir.Value) -> ir.Operation | None:
    return defined_by(value, "stablehlo.constant")
