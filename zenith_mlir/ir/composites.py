"""zenith.* composites of a module: finding them, reading them, putting their decomposition in their place."""

from __future__ import annotations

from collections.abc import Iterable

from jaxlib.mlir import ir
from jaxlib.mlir.passmanager import PassManager

from zenith_mlir.ir.facts import defining_op, users, walk_named
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
    done = {decomposition_name(op) for op in composites if composite_name(op).startswith("zenith.")}
    return [op for name, func in functions(module).items() if name not in done for op in walk_named(func, *names)]


def composite_name(composite: ir.Operation) -> str:
    return str(ir.StringAttr(composite.attributes["name"]).value)


def composite_attributes(composite: ir.Operation) -> ir.DictAttr:
    return ir.DictAttr(composite.attributes["composite_attributes"])


def gradients_with_residuals(composite: ir.Operation) -> list[ir.Operation]:
    """The gradients of `composite` that take more of it than its first result, where that is what its attribute
    `residuals` says the others are for.
    """
    attributes = composite_attributes(composite)
    if "residuals" not in attributes or not ir.BoolAttr(attributes["residuals"]).value:
        return []
    name = f"{composite_name(composite)}_vjp"
    found = [user for residual in list(composite.results)[1:] for user in users(residual)]
    return [op for op in dict.fromkeys(found) if op.name == "stablehlo.composite" and composite_name(op) == name]


def decomposition(composite: ir.Operation, module: ir.Operation) -> ir.Operation:
    """The function that says what `composite` computes."""
    return functions(module)[decomposition_name(composite)]


def decomposition_name(composite: ir.Operation) -> str:
    return str(ir.FlatSymbolRefAttr(composite.attributes["decomposition"]).value)


def expand(composites: Iterable[ir.Operation], module: ir.Operation) -> None:
    """Replace `composites` by the bodies of their decompositions.

    What a body computes for nobody goes, and what two of them compute alike (a gradient repeats its forward) is merged.
    """
    results = [value for op in composites for value in inline_body(decomposition(op, module), op)]
    for op in _unused(results):
        op.erase()
    if results:
        PassManager.parse("builtin.module(cse)").run(module)


def _unused(values: Iterable[ir.Value]) -> list[ir.Operation]:
    """What computes `values` that nobody uses, and nothing else; users before producers."""
    unused: dict[ir.Operation, None] = {}
    stack = [op for value in values if (op := defining_op(value)) is not None]
    while stack:
        op = stack.pop()
        if op not in unused and all(user in unused for result in op.results for user in users(result)):
            unused[op] = None
            stack += [producer for operand in op.operands if (producer := defining_op(operand)) is not None]
    return list(unused)
