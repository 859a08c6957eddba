"""CHLO functions that have no lowering of their own become the StableHLO that XLA makes of them."""

from __future__ import annotations

from collections.abc import Container

from jaxlib.mlir import ir
from jaxlib.mlir.passmanager import PassManager

from zenith_mlir.ir.composites import walk_program
from zenith_mlir.ir.facts import walk
from zenith_mlir.ir.inline import inline_body
from zenith_mlir.ir.symbols import functions
from zenith_mlir.module import Module

__all__ = ["expand_chlo"]


def expand_chlo(module: Module, kept: Container[str]) -> None:
    """Expand every chlo operation of `module` whose name is not in `kept`, by jaxlib's own decompositions."""
    with module.context:
        names = {op.name for op in walk(module.operation) if op.name.startswith("chlo.")}
        for op in walk_program(module.operation, *(name for name in names if name not in kept)):
            # Functions live as long as their module.
            holder = _alone(op)
            inline_body(functions(holder.operation)["expanded"], op)


def _alone(op: ir.Operation) -> ir.Module:
    """A module with a function "expanded" of the operands of `op` that computes it."""
    holder = ir.Module.create(op.location)
    types = [operand.type for operand in op.operands]
    signature = ir.FunctionType.get(types, [result.type for result in op.results])
    with ir.InsertionPoint(holder.body), op.location:
        func = ir.Operation.create(
            "func.func",
            regions=1,
            attributes={"sym_name": ir.StringAttr.get("expanded"), "function_type": ir.TypeAttr.get(signature)},
        )
        block = func.regions[0].blocks.append(*types, arg_locs=[op.location] * len(types))
    with ir.InsertionPoint(block), op.location:
        clone = op.clone()
        for i, argument in enumerate(block.arguments):
            clone.operands[i] = argument
        ir.Operation.create("func.return", operands=list(clone.results))
    PassManager.parse("builtin.module(func.func(chlo-legalize-to-stablehlo))").run(holder.operation)
    return holder
