"""Giving a program the types of a colouring: results change in place, operands are converted where they differ."""

from __future__ import annotations

from jaxlib.mlir import ir

from zenith_mlir.ir.facts import defined_by, defining_op, element_type, splat, splat_attribute, users, walk
from zenith_mlir.precision.cast.colouring import Colouring
from zenith_mlir.precision.cast.graph import Use, is_wide


def apply(colouring: Colouring) -> None:
    """Rewrite what `colouring` decides."""
    graph = colouring.graph
    # All that is asked of the graph is asked before anything changes: operations hash by what they hold.
    uses = [(use, use.value, colouring.wants_narrow(node, use)) for node in graph.nodes for use in node.uses]
    uses += [(use, use.value, False) for use in graph.sinks]
    uses = [(use, v, want) for use, v, want in uses if want is not None and is_wide(v) and not _is_convert(use.op)]
    narrow = [value for node in graph.nodes for value in node.values if is_wide(value) and colouring.is_narrow(value)]
    whole = [node.op for node in graph.nodes if node in colouring.low and node.op.regions and not node.is_join]
    for value in narrow:
        value.set_type(_with(value.type, colouring.element))
    for op in whole:
        _narrow_region(op, colouring.element)
    rewriter = _Rewriter(colouring.element)
    for use, value, want in uses:
        if want != (element_type(value) == colouring.element):
            rewriter.give(use, value, bool(want))
    rewriter.clean()


class _Rewriter:
    """Converts, each made once: a narrow one where its value is computed, a wide one in the block that uses it."""

    def __init__(self, element: ir.Type) -> None:
        self._element = element
        self._made: dict[tuple[ir.Value, bool, ir.Block | None], ir.Value] = {}
        self._sources: dict[ir.Value, None] = {}

    def give(self, use: Use, value: ir.Value, narrow: bool) -> None:
        """Give `use` the narrow or wide form of `value`."""
        use.op.operands[use.number] = self._form(use, value, narrow)
        self._sources[value] = None

    def _form(self, use: Use, value: ir.Value, narrow: bool) -> ir.Value:
        convert = defined_by(value, "stablehlo.convert")
        if narrow and convert is not None and element_type(convert.operands[0]) == self._element:
            source: ir.Value = convert.operands[0]
            return source
        key = (value, narrow, None if narrow else use.op.block)
        if key not in self._made:
            self._made[key] = self._narrowed(value) if narrow else self._widened(use, value)
        return self._made[key]

    def _narrowed(self, value: ir.Value) -> ir.Value:
        op = defining_op(value)
        type_ = _with(value.type, self._element)
        number = splat(value)
        if op is None:
            block = ir.BlockArgument(value).owner
            point, location = ir.InsertionPoint.at_block_begin(block), block.owner.operation.location
        else:
            point, location = ir.InsertionPoint.after(op), op.location
        with point, location:
            if number is not None:
                return _one("stablehlo.constant", type_, [], {"value": splat_attribute(type_, number)})
            return _one("stablehlo.convert", type_, [value])

    def _widened(self, use: Use, value: ir.Value) -> ir.Value:
        op = defining_op(value)
        if op is not None and op.block == use.op.block:
            point, location = ir.InsertionPoint.after(op), op.location
        else:
            point, location = ir.InsertionPoint.at_block_begin(use.op.block), use.op.location
        with point, location:
            return _one("stablehlo.convert", _with(value.type, ir.F32Type.get()), [value])

    def clean(self) -> None:
        """Erase constants and converts that nobody uses any more."""
        for value in self._sources:
            op = defining_op(value)
            if op is not None and op.name in ("stablehlo.constant", "stablehlo.convert") and not users(value):
                op.erase()


def _is_convert(op: ir.Operation) -> bool:
    return bool(op.name == "stablehlo.convert")


def drop_identities(func: ir.Operation) -> None:
    """Erase converts to the type that their operand has."""
    for op in [op for op in walk(func) if op.name == "stablehlo.convert"]:
        if op.operands[0].type == op.results[0].type:
            op.results[0].replace_all_uses_with(op.operands[0])
            op.erase()


def _narrow_region(op: ir.Operation, element: ir.Type) -> None:
    for region in op.regions:
        for block in region.blocks:
            for argument in block.arguments:
                argument.set_type(_with(argument.type, element))
            for inner in block.operations:
                for result in inner.operation.results:
                    result.set_type(_with(result.type, element))


def _with(type_: ir.Type, element: ir.Type) -> ir.Type:
    ranked = ir.RankedTensorType(type_)
    return ir.RankedTensorType.get(ranked.shape, element, ranked.encoding)


def _one(
    name: str, type_: ir.Type, operands: list[ir.Value], attributes: dict[str, ir.Attribute] | None = None
) -> ir.Value:
    result: ir.Value
    (result,) = ir.Operation.create(name, results=[type_], operands=operands, attributes=attributes or {}).results
    return result


def update_signature(func: ir.Operation) -> None:
    """Let the type of a function be that of its arguments and of what it returns."""
    if not func.regions[0].blocks:
        return
    block = func.regions[0].blocks[0]
    *_, end = block.operations
    type_ = ir.FunctionType.get([a.type for a in block.arguments], [v.type for v in end.operation.operands])
    if ir.TypeAttr(func.attributes["function_type"]).value != type_:
        func.attributes["function_type"] = ir.TypeAttr.get(type_)
