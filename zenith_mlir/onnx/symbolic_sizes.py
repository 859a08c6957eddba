"""Sizes that are expressions of symbolic dimensions: in shapes by their text, in the graph computed from the inputs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import reduce
from typing import Any

import onnx_ir as oir

from zenith_mlir.onnx.builder import Builder
from zenith_mlir.onnx.dynamic import Specialized
from zenith_mlir.onnx.dynamic.expr import Atom, Expr
from zenith_mlir.onnx.view import View

__all__ = ["SymbolicSizes"]

_INT64 = oir.DataType.INT64


class SymbolicSizes:
    """Decodes the sizes of a specialized module; see `zenith_mlir.onnx.sizes.Sizes`.

    Expressions are computed once, in the main graph, as vectors of one element.
    """

    def __init__(self, specialized: Specialized):
        self._specialized = specialized
        self._inputs: dict[int, View] = {}
        self._computed: dict[Expr, oir.Value] = {}
        self._numbers: dict[str, int] = {}

    def bind(self, index: int, view: View) -> None:
        """Argument `index` of main is this view of an input of the file."""
        self._inputs[index] = view

    def named(self, shape: Sequence[int]) -> list[int | str]:
        return [self._named(size) for size in shape]

    def numbers(self, shape: oir.Shape) -> tuple[int, ...]:
        return tuple(size if isinstance(size, int) else self._numbers[str(size)] for size in shape)

    def is_symbolic(self, size: int) -> bool:
        return not isinstance(self._specialized.decode(size), int)

    def vector(self, builder: Builder, sizes: Sequence[int]) -> oir.Value:
        if not any(self.is_symbolic(size) for size in sizes):
            return builder.ints(sizes)
        runs = [self._part(builder, run) for run in _runs(sizes, self.is_symbolic)]
        if len(runs) == 1:
            return runs[0]
        return self._node(builder, "Concat", runs, len(sizes), axis=0)

    def reshape_target(self, builder: Builder, old: Sequence[int], new: Sequence[int]) -> oir.Value:
        """0 is the size of the operand at the same place, -1 the one that is left."""
        if 0 in new:
            return self.vector(builder, new)
        stated = [0 if self.is_symbolic(size) and old[i : i + 1] == (size,) else size for i, size in enumerate(new)]
        open_ = [i for i, size in enumerate(stated) if size and self.is_symbolic(size)]
        if len(open_) == 1:
            stated[open_[0]] = -1
            return builder.ints(stated)
        return builder.ints(stated) if not open_ else self.vector(builder, new)

    def _named(self, size: int) -> int | str:
        meaning = self._specialized.decode(size)
        if isinstance(meaning, int):
            return meaning
        self._numbers[str(meaning)] = size
        return str(meaning)

    def _part(self, builder: Builder, run: Sequence[int]) -> oir.Value:
        meaning = self._specialized.decode(abs(run[0]))
        if isinstance(meaning, int):
            return builder.ints(run)
        return self.expression(builder, meaning if run[0] > 0 else Expr.number(-1) * meaning)

    def expression(self, builder: Builder, expr: Expr) -> oir.Value:
        """A vector of one int64."""
        if expr.constant is not None:
            return builder.ints([expr.constant])
        if expr not in self._computed:
            terms = [
                self._term(builder, [atom for atom, power in monomial for _ in range(power)], factor)
                for monomial, factor in expr.terms
            ]
            self._computed[expr] = reduce(lambda a, b: self._node(builder, "Add", [a, b]), terms)
        return self._computed[expr]

    def _term(self, builder: Builder, atoms: Sequence[Atom], factor: int) -> oir.Value:
        factors = [self._atom(builder, atom) for atom in atoms]
        if factor != 1 or not factors:
            factors.append(builder.ints([factor]))
        return reduce(lambda a, b: self._node(builder, "Mul", [a, b]), factors)

    def _atom(self, builder: Builder, atom: Atom) -> oir.Value:
        if atom.function == "symbol":
            return self._symbol(builder, atom.name)
        operands = [self.expression(builder, operand) for operand in atom.operands]
        return _FUNCTIONS[atom.function](lambda op_type, values: self._node(builder, op_type, values), operands)

    def _symbol(self, builder: Builder, name: str) -> oir.Value:
        places = self._specialized.symbols.get(name)
        if not places:
            return self.expression(builder, self._specialized.solved[name])
        index, dimension = places[0]
        view = self._inputs[index]
        axis = view.axes[dimension]
        assert axis is not None
        expr = Expr.symbol(name)
        if expr not in self._computed:
            self._computed[expr] = self._node(builder, "Shape", [view.value], start=axis, end=axis + 1)
        return self._computed[expr]

    def _node(
        self, builder: Builder, op_type: str, values: Sequence[oir.Value], size: int = 1, **attributes: Any
    ) -> oir.Value:
        with builder.in_main():
            return builder.nodes(op_type, values, [(_INT64, (size,))], **attributes)[0]


_Emit = Callable[[str, Sequence[oir.Value]], oir.Value]


def _floordiv(emit: _Emit, operands: Sequence[oir.Value]) -> oir.Value:
    """ONNX divides towards zero, and its Mod has the sign of the divisor."""
    dividend, divisor = operands
    return emit("Div", [emit("Sub", [dividend, emit("Mod", operands)]), divisor])


_FUNCTIONS: dict[str, Callable[[_Emit, Sequence[oir.Value]], oir.Value]] = {
    "floordiv": _floordiv,
    "mod": lambda emit, operands: emit("Mod", operands),
    "max": lambda emit, operands: emit("Max", operands),
    "min": lambda emit, operands: emit("Min", operands),
}


def _runs(sizes: Sequence[int], is_symbolic: Callable[[int], bool]) -> list[list[int]]:
    """Numbers next to each other together, symbolic sizes each alone."""
    runs: list[list[int]] = []
    for i, size in enumerate(sizes):
        alone = is_symbolic(abs(size)) or (i > 0 and is_symbolic(abs(sizes[i - 1])))
        if alone or not runs:
            runs.append([size])
        else:
            runs[-1].append(size)
    return runs
