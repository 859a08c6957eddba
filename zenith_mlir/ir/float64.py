"""to_float64: a program with every float in double precision, which judges the program and its rewrites."""

from __future__ import annotations

from collections.abc import Callable, Container, Sequence
from typing import TYPE_CHECKING

from jaxlib.mlir import ir

from zenith_mlir.errors import ZenithError
from zenith_mlir.ir.facts import blocks, defining_op, walk
from zenith_mlir.ir.symbols import callee, functions

if TYPE_CHECKING:
    from zenith_mlir.module import Module

__all__ = ["to_float64"]

# What these mean hangs on the width of their types: bit patterns, random bits, constants' exact values,
# foreign code. They stay as they are, between converts.
KEPT = {
    "stablehlo.bitcast_convert",
    "stablehlo.constant",
    "chlo.constant",
    "stablehlo.custom_call",
    "stablehlo.infeed",
    "stablehlo.outfeed",
    "stablehlo.recv",
    "stablehlo.send",
    "stablehlo.rng",
    "stablehlo.rng_bit_generator",
}

# Custom calls that only say where a value lives: any type will do, and converts would round what passes
# through.
PLACEMENT_CALLS = {
    "annotate_device_placement",
    "MoveToDevice",
    "MoveToHost",
    "Sharding",
    "SPMDFullToShardShape",
    "SPMDShardToFullShape",
}


def to_float64(module: Module) -> Module:
    """A copy of `module` in which every float is an f64 (and every complex number a complex<f64>).

    Arguments and results of every function are f64 where they were float, in the same order; integers and
    booleans are untouched. Constants keep their exact value: a mask fill of `finfo(f32).min` stays that
    number. Converts between floats and `reduce_precision` disappear, since they exist to lose bits. Bit
    casts, random numbers and custom calls run in their original types between converts, so that bits drawn
    from a key are the same bits. So does float arithmetic on integers and constants alone that ends in an
    integer, such as the logarithmic buckets of relative positions: its last bit decides which bucket, and
    that choice belongs to the program, not to its rounding errors.

    Raises:
      ZenithError: a function that a custom call uses is called directly as well, or floats pass in tuples.
    """
    copy = module.clone()
    with copy.context, ir.Location.unknown():
        foreign = _functions_of_custom_calls(copy.operation)
        for name, func in functions(copy.operation).items():
            if name not in foreign:
                _widen_function(func)
        _check_calls(copy.operation, foreign)
    return copy


def _widen_function(func: ir.Operation) -> None:
    ops = list(walk(func))
    indexing = _index_arithmetic(ops)
    kept_types = {op: [v.type for v in op.operands] for op in ops if _is_kept(op) or op in indexing}
    _widen_signature(func)
    for op in ops:
        if op not in kept_types:
            _widen_op(op)
    for op, types in kept_types.items():
        _narrow_operands(op, types)
    for op in kept_types:
        _widen_results(op, kept_types)
    for op in ops:
        if op.name in ("stablehlo.convert", "stablehlo.reduce_precision"):
            _drop_if_identity(op)


def _widen_signature(func: ir.Operation) -> None:
    signature = ir.FunctionType(ir.TypeAttr(func.attributes["function_type"]).value)
    func.attributes["function_type"] = ir.TypeAttr.get(
        ir.FunctionType.get([_widened(t) for t in signature.inputs], [_widened(t) for t in signature.results])
    )
    _widen_block_arguments(func)


def _widen_block_arguments(op: ir.Operation) -> None:
    for block in blocks(op):
        for argument in block.arguments:
            argument.set_type(_widened(argument.type))


def _widen_op(op: ir.Operation) -> None:
    for result in op.results:
        result.set_type(_widened(result.type))
    _widen_block_arguments(op)
    if fix := _ATTRIBUTES.get(op.name):
        fix(op)


def _drop_algorithm(dot: ir.Operation) -> None:
    # It names the types of a particular unit; f64 has only one way.
    if "algorithm" in dot.attributes:
        del dot.attributes["algorithm"]


def _widen_scalar(op: ir.Operation) -> None:
    value = op.attributes["value"]
    if isinstance(value, ir.FloatAttr):
        op.attributes["value"] = ir.FloatAttr.get(ir.F64Type.get(), value.value)


_ATTRIBUTES: dict[str, Callable[[ir.Operation], None]] = {
    "stablehlo.dot_general": _drop_algorithm,
    "chlo.constant_like": _widen_scalar,
}


def _is_kept(op: ir.Operation) -> bool:
    if op.name == "stablehlo.custom_call":
        return ir.StringAttr(op.attributes["call_target_name"]).value not in PLACEMENT_CALLS
    return op.name in KEPT


def _index_arithmetic(ops: Sequence[ir.Operation]) -> set[ir.Operation]:
    """The converts of floats to integers that read integers and constants alone, and all behind them."""
    found: set[ir.Operation] = set()
    for op in ops:
        if op.name == "stablehlo.convert" and not _is_float(op.results[0]) and _is_float(op.operands[0]):
            found |= _from_integers(op.operands[0], {op}) or set()
    return found


def _from_integers(value: ir.Value, found: set[ir.Operation]) -> set[ir.Operation] | None:
    """`found` and the float operations behind `value`; None if one of them reads a float argument or holds a
    region.
    """
    stack = [value]
    while stack:
        op = defining_op(stack.pop())
        if op is None or len(op.regions) > 0 or op.name == "func.call":
            return None
        if op not in found:
            found.add(op)
            stack.extend(operand for operand in op.operands if _is_float(operand))
    return found


def _is_float(value: ir.Value) -> bool:
    return _widened(value.type) != value.type or "f64" in str(value.type)


def _narrow_operands(op: ir.Operation, types: Sequence[ir.Type]) -> None:
    """Give `op`, which stays as it is, its operands in their original `types`."""
    for i, type_ in enumerate(types):
        if op.operands[i].type != type_:
            with ir.InsertionPoint(op), op.location:
                op.operands[i] = _convert(op.operands[i], type_).results[0]


def _widen_results(op: ir.Operation, kept: Container[ir.Operation]) -> None:
    """Give f64 to the users of `op` that do not stay as they are themselves."""
    for result in op.results:
        wide = _widened(result.type)
        uses = [(use.owner.operation, use.operand_number) for use in result.uses if use.owner.operation not in kept]
        if wide != result.type and uses:
            with ir.InsertionPoint.after(op), op.location:
                convert = _convert(result, wide)
            for user, number in uses:
                user.operands[number] = convert.results[0]


def _convert(value: ir.Value, type_: ir.Type) -> ir.Operation:
    if isinstance(type_, ir.TupleType):
        raise ZenithError(
            f"cannot run in float64: the module passes a tuple of floats, {type_}, to or from foreign code"
        )
    return ir.Operation.create("stablehlo.convert", results=[type_], operands=[value])


def _drop_if_identity(op: ir.Operation) -> None:
    source, result = op.operands[0], op.results[0]
    if source.type == result.type:
        result.replace_all_uses_with(source)
        op.erase()


def _widened(type_: ir.Type) -> ir.Type:
    match type_:
        case ir.RankedTensorType():
            return ir.RankedTensorType.get(type_.shape, _widened(type_.element_type), type_.encoding)
        case ir.UnrankedTensorType():
            return ir.UnrankedTensorType.get(_widened(type_.element_type))
        case ir.TupleType():
            return ir.TupleType.get_tuple([_widened(type_.get_type(i)) for i in range(type_.num_types)])
        case ir.ComplexType():
            return ir.ComplexType.get(_widened(type_.element_type))
        case ir.FloatType():
            return ir.F64Type.get()
    return type_


def _functions_of_custom_calls(module: ir.Operation) -> set[str]:
    """Names of functions that custom calls use, and of those that these call: they keep their types."""
    table = functions(module)
    found: set[str] = set()
    frontier = {name for func in table.values() for op in walk(func) for name in _called_by_custom_call(op)}
    while frontier:
        found |= frontier
        calls = {callee(op) for name in frontier for op in walk(table[name]) if op.name == "func.call"}
        frontier = calls - found
    return found


def _called_by_custom_call(op: ir.Operation) -> list[str]:
    if op.name != "stablehlo.custom_call" or "called_computations" not in op.attributes:
        return []
    return [ir.FlatSymbolRefAttr(symbol).value for symbol in ir.ArrayAttr(op.attributes["called_computations"])]


def _check_calls(module: ir.Operation, foreign: set[str]) -> None:
    for name, func in functions(module).items():
        for op in walk(func):
            if name not in foreign and op.name == "func.call" and callee(op) in foreign:
                raise ZenithError(
                    f"{op.location}: cannot run in float64: @{callee(op)} is called here and by a custom "
                    "call, which needs it in its original types; give the custom call a function of its own"
                )
