"""zenith.* composites of a module: finding them, reading them, putting their decomposition in their place."""

from __future__ import annotations

from jaxlib.mlir import ir

from zenith_mlir.ir.facts import walk_named
from zenith_mlir.ir.inline import inline_body
from zenith_mlir.ir.symbols import functions


def zenith_composites(module: ir.Operation) -> list[ir.Operation]:
    """Every composite whose name starts with "zenith.", in program order, outside of decompositions."""
    found = walk_program(module, "stablehlo.composite")
    return [op for op in found if composite_name(op).startswith("zenith.")]


def walk_program(module: ir.Operation, *names: str) -> list[ir.Operation]:
    """Operations with these names in `module`, those in decompositions of zenith.* composites left out: these were
    matched already.
    """
    composites = walk_named(module, "stablehlo.composite")
    done = {_decomposition_name(op) for op in composites if composite_name(op).startswith("zenith.")}
    return [op for name, func in functions(module).items() if name not in done for op in walk_named(func, *names)]


def composite_name(composite: ir.Operation) -> str:
    return str(ir.StringAttr(composite.attributes["name"]).value)


def composite_attributes(composite: ir.Operation) -> ir.DictAttr:
    return ir.DictAttr(composite.attributes["composite_attributes"])


def decomposition(composite: ir.Operation, module: ir.Operation) -> ir.Operation:
    """The function that says what `composite` computes."""
    return functions(module)[_decomposition_name(composite)]


def _decomposition_name(composite: ir.Operation) -> str:
    return str(ir.FlatSymbolRefAttr(composite.attributes["decomposition"]).value)


def expand(composite: ir.Operation, module: ir.Operation) -> None:
    """Replace `composite` by the body of its decomposition."""
    inline_body(decomposition(composite, module), composite)
