"""Composites whose operands or results have other types than their decompositions: these convert at their boundary."""

from __future__ import annotations

from collections.abc import Sequence

from jaxlib.mlir import ir

from zenith_mlir.ir.composites import decomposition_name
from zenith_mlir.ir.facts import producer, walk_named
from zenith_mlir.ir.symbols import functions, unique_name
from zenith_mlir.precision.cast.joins import terminator


def adapt_decompositions(module: ir.Operation) -> None:
    """Give every decomposition the types of its composite; what is inside converts them and stays the same.

    Composites of different types that share a decomposition get one each.
    """
    table = functions(module)
    composites = [op for op in walk_named(module, "stablehlo.composite") if decomposition_name(op) in table]
    owners: dict[tuple[str, ir.FunctionType], str] = {}
    shared = [decomposition_name(op) for op in composites]
    for composite in composites:
        name = decomposition_name(composite)
        func = table[name]
        wanted = ir.FunctionType.get(
            [value.type for value in composite.operands], [value.type for value in composite.results]
        )
        if _type_of(func) == wanted and owners.setdefault((name, wanted), name) == name:
            continue
        if (name, wanted) not in owners:
            own = name if shared.count(name) == 1 else _copy(module, func)
            owners[name, wanted] = own
            _adapt(functions(module)[own], wanted)
        composite.attributes["decomposition"] = ir.FlatSymbolRefAttr.get(owners[name, wanted])


def _type_of(func: ir.Operation) -> ir.FunctionType:
    return ir.FunctionType(ir.TypeAttr(func.attributes["function_type"]).value)


def _copy(module: ir.Operation, func: ir.Operation) -> str:
    name = unique_name(module, str(ir.StringAttr(func.attributes["sym_name"]).value))
    with ir.InsertionPoint(func):
        clone = func.clone()
    clone.attributes["sym_name"] = ir.StringAttr.get(name)
    return name


def _adapt(func: ir.Operation, wanted: ir.FunctionType) -> None:
    block = func.regions[0].blocks[0]
    for argument, type_ in zip(block.arguments, wanted.inputs, strict=True):
        old = argument.type
        if old != type_:
            argument.set_type(type_)
            with ir.InsertionPoint.at_block_begin(block), func.location:
                wide = _convert(argument, old)
            argument.replace_all_uses_except(wide, producer(wide))
    end = terminator(block)
    with ir.InsertionPoint(end), end.location:
        returned = _converted(list(end.operands), wanted.results)
    for i, value in enumerate(returned):
        end.operands[i] = value
    func.attributes["function_type"] = ir.TypeAttr.get(wanted)


def _converted(values: Sequence[ir.Value], types: Sequence[ir.Type]) -> list[ir.Value]:
    return [v if v.type == type_ else _convert(v, type_) for v, type_ in zip(values, types, strict=True)]


def _convert(value: ir.Value, type_: ir.Type) -> ir.Value:
    result: ir.Value
    (result,) = ir.Operation.create("stablehlo.convert", results=[type_], operands=[value]).results
    return result
