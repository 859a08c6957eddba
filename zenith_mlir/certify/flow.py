"""Where values come from in a program, across calls, loops and branches."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from jaxlib.mlir import ir

from zenith_mlir.ir.facts import defining_op, shape, splat, walk
from zenith_mlir.ir.symbols import functions

__all__ = ["ARITHMETIC", "INDEXING", "MOVES", "POSITIVE", "Flow", "is_number", "scaled_by_a_number"]

# Which operands a value comes from, for the operations that only move numbers about (None: all of them) ...
MOVES: dict[str, tuple[int, ...] | None] = {
    "stablehlo.broadcast_in_dim": (0,),
    "stablehlo.concatenate": None,
    "stablehlo.convert": (0,),
    "stablehlo.dynamic_slice": (0,),
    "stablehlo.dynamic_update_slice": (0, 1),
    "stablehlo.gather": (0,),
    "stablehlo.pad": (0,),
    "stablehlo.reduce_precision": (0,),
    "stablehlo.reshape": (0,),
    "stablehlo.reverse": (0,),
    "stablehlo.slice": (0,),
    "stablehlo.transpose": (0,),
    "sdy.sharding_constraint": (0,),
}
# ... that indices go through on their way (`i < 0 ? i + n : i`, clamping) ...
INDEXING = MOVES | {
    "stablehlo.add": None,
    "stablehlo.clamp": (1,),
    "stablehlo.maximum": None,
    "stablehlo.minimum": None,
    "stablehlo.select": (1, 2),
    "stablehlo.subtract": None,
}
# ... that scale or shift a factor of a contraction ...
ARITHMETIC = MOVES | {
    "stablehlo.add": None,
    "stablehlo.divide": None,
    "stablehlo.multiply": None,
    "stablehlo.negate": (0,),
    "stablehlo.select": (1, 2),
    "stablehlo.subtract": None,
}
# ... and that make something positive of something positive.
POSITIVE = MOVES | {
    "stablehlo.add": None,
    "stablehlo.divide": (0,),
    "stablehlo.maximum": None,
    "stablehlo.select": (1, 2),
}


class Flow:
    """Where values come from, across calls, loops and branches."""

    def __init__(self, module: ir.Operation):
        self._functions = functions(module)
        main = self._functions["main"]
        self.main_arguments = list(main.regions[0].blocks[0].arguments)
        self._numbers = {argument: number for number, argument in enumerate(self.main_arguments)}
        self._calls: dict[str, list[ir.Operation]] = {}
        for op in walk(module):
            if callee := _callee(op):
                self._calls.setdefault(callee, []).append(op)

    def arguments(self, value: ir.Value, through: dict[str, tuple[int, ...] | None]) -> set[int]:
        """Numbers of the arguments of main that `value` comes from through the operations named."""
        found, seen, stack = set(), {value}, [value]
        while stack:
            value = stack.pop()
            if value in self._numbers:
                found.add(self._numbers[value])
            for source in self._sources(value, through):
                if source not in seen:
                    seen.add(source)
                    stack.append(source)
        return found

    def _sources(self, value: ir.Value, through: dict[str, tuple[int, ...] | None]) -> Iterator[ir.Value]:
        op = defining_op(value)
        if op is None:
            yield from self._entering(value)
        elif callee := _callee(op):
            if callee in self._functions:
                yield _terminator(self._functions[callee].regions[0]).operands[_position(value, op.results)]
        elif op.name == "stablehlo.multiply" and through is POSITIVE:
            yield from scaled_by_a_number(op)
        elif op.name in through:
            picked = through[op.name]
            yield from op.operands if picked is None else (op.operands[i] for i in picked)
        elif op.name == "stablehlo.optimization_barrier":
            yield op.operands[_position(value, op.results)]
        elif op.name in ("stablehlo.while", "stablehlo.case", "stablehlo.if"):
            position = _position(value, op.results)
            if op.name == "stablehlo.while":
                yield op.operands[position]
                yield _terminator(op.regions[1]).operands[position]
            else:
                yield from (_terminator(region).operands[position] for region in op.regions)

    def _entering(self, value: ir.Value) -> Iterator[ir.Value]:
        """What a block argument is given."""
        argument: ir.BlockArgument = ir.BlockArgument(value)
        position, parent = argument.arg_number, argument.owner.owner.operation
        if parent.name == "func.func":
            for call in self._calls.get(ir.StringAttr(parent.attributes["sym_name"]).value, ()):
                yield call.operands[position]
        elif parent.name == "stablehlo.while":
            yield parent.operands[position]
            yield _terminator(parent.regions[1]).operands[position]


def _callee(op: ir.Operation) -> str:
    name = {"func.call": "callee", "stablehlo.composite": "decomposition"}.get(op.name)
    return str(ir.FlatSymbolRefAttr(op.attributes[name]).value) if name else ""


def _terminator(region: ir.Region) -> ir.Operation:
    return region.blocks[0].operations[-1].operation


def _position(value: ir.Value, values: Any) -> int:
    return next(i for i, other in enumerate(values) if other == value)


def scaled_by_a_number(multiply: ir.Operation) -> Iterator[ir.Value]:
    """The operand that a multiplication by a constant scales."""
    lhs, rhs = multiply.operands
    if is_number(rhs):
        yield lhs
    elif is_number(lhs):
        yield rhs


def is_number(value: ir.Value) -> bool:
    """Whether `value` is one number everywhere: a splat, or the broadcast of a scalar."""
    op = defining_op(value)
    while op is not None and MOVES.get(op.name) == (0,):
        value = op.operands[0]
        op = defining_op(value)
    return splat(value) is not None or shape(value) == ()
