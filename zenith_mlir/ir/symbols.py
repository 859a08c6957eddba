"""Functions of a module by name: finding, naming and dropping them."""

from __future__ import annotations

from jaxlib.mlir import ir

from zenith_mlir.ir.facts import walk


def functions(module: ir.Operation) -> dict[str, ir.Operation]:
    """The func.func operations at the top of `module`, by symbol name."""
    body = module.regions[0].blocks[0]
    return {symbol_name(op.operation): op.operation for op in body.operations if op.operation.name == "func.func"}


def symbol_name(op: ir.Operation) -> str:
    return str(ir.StringAttr(op.attributes["sym_name"]).value)


def callee(call: ir.Operation) -> str:
    """The name of the function that a func.call calls."""
    return str(ir.FlatSymbolRefAttr(call.attributes["callee"]).value)


def is_private(func: ir.Operation) -> bool:
    attributes = func.attributes
    return "sym_visibility" in attributes and ir.StringAttr(attributes["sym_visibility"]).value == "private"


def unique_name(module: ir.Operation, stem: str) -> str:
    """`stem`, or `stem_1`, `stem_2`, ...: the first that no symbol of `module` has."""
    taken = {
        symbol_name(op.operation)
        for op in module.regions[0].blocks[0].operations
        if "sym_name" in op.operation.attributes
    }
    name, number = stem, 0
    while name in taken:
        number += 1
        name = f"{stem}_{number}"
    return name


def drop_unused_private_functions(module: ir.Operation) -> None:
    """Erase private functions that nothing refers to, transitively."""
    while True:
        table = functions(module)
        referenced = _referenced_symbols(module)
        unused = [func for name, func in table.items() if is_private(func) and name not in referenced]
        if not unused:
            return
        for func in unused:
            func.erase()


def _referenced_symbols(module: ir.Operation) -> set[str]:
    found: set[str] = set()
    for op in walk(module):
        if op.name == "stablehlo.constant":
            continue  # names nothing, and may hold elements that the bindings cannot read
        for named in op.attributes:
            _collect_symbols(_attribute_of(op, named), found)
    return found


def _attribute_of(op: ir.Operation, named: object) -> ir.Attribute:
    # Iterating an attribute map gives names on newer bindings and NamedAttributes on older ones.
    return op.attributes[named] if isinstance(named, str) else named.attr  # type: ignore[attr-defined]


def _collect_symbols(attribute: ir.Attribute, found: set[str]) -> None:
    if isinstance(attribute, ir.FlatSymbolRefAttr):
        found.add(attribute.value)
    elif isinstance(attribute, ir.SymbolRefAttr):
        found.update(attribute.value)
    elif isinstance(attribute, ir.ArrayAttr):
        for item in attribute:
            _collect_symbols(item, found)
    elif isinstance(attribute, ir.DictAttr):
        for i in range(len(attribute)):
            _collect_symbols(attribute[i].attr, found)
