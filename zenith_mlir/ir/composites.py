"""zenith.* composites of a module: finding them, reading them, putting their decomposition in their place."""

from __future__ import annotations

from jaxlib.mlir import ir

from zenith_mlir.ir.facts import walk_named
from zenith_mlir.ir.inline import inline_body
from zenith_mlir.ir.symbols import functions


def zenith_composites(module: ir.Operation) -> list[ir.Operation]:
    """Every composite whose name starts with "zenith.", in program order."""
    return [op for op in walk_named(module, "stablehlo.composite") if composite_name(op).startswith("zenith.")]


def composite_name(composite: ir.Operation) -> str:
    return str(ir.StringAttr(composite.attributes["name"]).value)


def composite_attributes(composite: ir.Operation) -> ir.DictAttr:
    return ir.DictAttr(composite.attributes["composite_attributes"])


def decomposition(composite: ir.Operation, module: ir.Operation) -> ir.Operation:
    """The function that says what `composite` computes."""
    return functions(module)[str(ir.FlatSymbolRefAttr(composite.attributes["decomposition"]).value)]


def expand(composite: ir.Operation, module: ir.Operation) -> None:
    """Replace `composite` by the body of its decomposition."""
    inline_body(decomposition(composite, module), composite)
