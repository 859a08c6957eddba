"""Integer values as affine functions of axes: c0 + c1 * i1 + c2 * i2 + ..., proven from iota, constants, + and *."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from jaxlib.mlir import ir

from zenith_mlir.ir.facts import defining_op, element_type, int_list, splat
from zenith_mlir.match.axes import Axis, AxisSpace, View, operand_view
from zenith_mlir.match.constants import evaluate


@dataclass(frozen=True)
class Affine:
    """offset + sum of coefficients[axis] * index of axis."""

    offset: int = 0
    coefficients: dict[Axis, int] = field(default_factory=dict)

    def __add__(self, other: Affine) -> Affine:
        axes = self.coefficients.keys() | other.coefficients.keys()
        total = {axis: self.coefficients.get(axis, 0) + other.coefficients.get(axis, 0) for axis in axes}
        return Affine(self.offset + other.offset, {axis: c for axis, c in total.items() if c})

    def scaled(self, factor: int) -> Affine:
        return Affine(self.offset * factor, {axis: c * factor for axis, c in self.coefficients.items() if c * factor})

    def bounds(self, space: AxisSpace) -> tuple[int, int]:
        """Smallest and largest value over all indices."""
        spans = [c * (space.size(axis) - 1) for axis, c in self.coefficients.items()]
        return self.offset + sum(min(0, s) for s in spans), self.offset + sum(max(0, s) for s in spans)


def affine(space: AxisSpace, value: ir.Value, view: View) -> Affine | None:
    """`value`, whose dimensions run over `view`, as an affine function; None where that is not proven.

    Arithmetic is on machine integers, so each intermediate value is shown to stay within its type.
    """
    return _Reader(space).read(value, view, 0)


class _Reader:
    """Reads each value once for each view: index arithmetic may be shared many times over."""

    def __init__(self, space: AxisSpace) -> None:
        self._space = space
        self._known: dict[tuple[ir.Value, View], Affine | None] = {}

    def read(self, value: ir.Value, view: View, depth: int) -> Affine | None:
        if (value, view) not in self._known:
            self._known[value, view] = None if depth > 32 else self._in_range(value, view, depth)
        return self._known[value, view]

    def _in_range(self, value: ir.Value, view: View, depth: int) -> Affine | None:
        element = element_type(value)
        if not isinstance(element, ir.IntegerType) or element.width == 1:
            return None
        found = self._found(value, view, depth)
        if found is None:
            return None
        low, high = found.bounds(self._space)
        smallest = 0 if element.is_unsigned else -(2 ** (element.width - 1))
        largest = 2 ** (element.width if element.is_unsigned else element.width - 1) - 1
        return found if smallest <= low and high <= largest else None

    def _found(self, value: ir.Value, view: View, depth: int) -> Affine | None:
        number = splat(value)
        if number is not None:
            return Affine(int(number))
        op = defining_op(value)
        if op is None:
            return None
        if op.name == "stablehlo.iota":
            return index_along(self._space, view[ir.IntegerAttr(op.attributes["iota_dimension"]).value])
        if op.name == "stablehlo.constant":
            return _progression(self._space, value, view)
        if op.name == "stablehlo.slice":
            return _sliced(self._space, op, view)
        if op.name in _BINARY:
            a, b = (self.read(operand, view, depth + 1) for operand in op.operands)
            return None if a is None or b is None else _BINARY[op.name](a, b)
        if op.name in ("stablehlo.negate", "stablehlo.convert"):
            a = self.read(op.operands[0], view, depth + 1)
            return a if a is None or op.name == "stablehlo.convert" else a.scaled(-1)
        inner = operand_view(self._space, op, view)
        return None if inner is None else self.read(op.operands[0], inner, depth + 1)


def index_along(space: AxisSpace, dim: tuple[Axis, ...]) -> Affine:
    """The index along a dimension that is made of `dim`, major to minor."""
    total, stride = Affine(), 1
    for axis in reversed(space.resolve(dim)):
        total = total + Affine(0, {axis: stride})
        stride *= space.size(axis)
    return total


def _product(a: Affine, b: Affine) -> Affine | None:
    if not b.coefficients:
        return a.scaled(b.offset)
    return b.scaled(a.offset) if not a.coefficients else None


_BINARY = {
    "stablehlo.add": lambda a, b: a + b,
    "stablehlo.subtract": lambda a, b: a + b.scaled(-1),
    "stablehlo.multiply": _product,
}


def _progression(space: AxisSpace, value: ir.Value, view: View) -> Affine | None:
    """A constant vector start, start + step, ... along its one dimension larger than one."""
    array = evaluate(value)
    wide = [dim for dim in view if dim]
    if array is None or len(wide) != 1:
        return None
    line = array.reshape(-1).astype(np.int64)
    steps = np.diff(line)
    if steps.size == 0 or (steps != steps[0]).any():
        return None
    return Affine(int(line[0])) + index_along(space, wide[0]).scaled(int(steps[0]))


def _sliced(space: AxisSpace, op: ir.Operation, view: View) -> Affine | None:
    """slice of an iota: start + stride * index."""
    source = defining_op(op.operands[0])
    if source is None or source.name != "stablehlo.iota":
        return None
    dim = ir.IntegerAttr(source.attributes["iota_dimension"]).value
    start, stride = int_list(op, "start_indices")[dim], int_list(op, "strides")[dim]
    return Affine(start) + index_along(space, view[dim]).scaled(stride)
