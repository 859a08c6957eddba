"""Integers computed for samples of a label: arithmetic is compared by value and not by form."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from jaxlib.mlir import ir

from zenith_mlir.canonical.splats import COMPARE, comparison_direction
from zenith_mlir.ir.facts import defining_op, element_type, int_list, reduction, shape, splat
from zenith_mlir.match.axes import Axis, AxisSpace, View, operand_view
from zenith_mlir.match.constants import evaluate

MAX_DEPTH = 24


@dataclass(frozen=True)
class Placed:
    """A value and what its dimensions run over."""

    value: ir.Value
    view: View


def part_of(space: AxisSpace, op: ir.Operation, view: View, at: Mapping[Axis, int]) -> Placed | None:
    """The one operand of a concatenation that holds the element that `at` names."""
    dim = ir.IntegerAttr(op.attributes["dimension"]).value
    axes = space.resolve(view[dim])
    if len(axes) != 1 or axes[0] not in at:
        return None
    position = at[axes[0]]
    for operand in op.operands:
        size = shape(operand)[dim]
        if position < size:
            return Placed(operand, (*view[:dim], (), *view[dim + 1 :])) if size == 1 else None
        position -= size
    return None


class Sampler:
    """Computes values for samples of what is at `base`: one number for each sample, or for each element too."""

    def __init__(self, space: AxisSpace, base: Placed | None, samples: np.ndarray, at: Mapping[Axis, int]) -> None:
        self._space, self._base, self._samples, self._at = space, base, samples, at

    def sample(self, value: ir.Value, view: View, depth: int) -> np.ndarray | None:
        view = self._space.resolve_view(view)
        if self._base is not None and (value, view) == (self._base.value, self._base.view):
            return self._samples
        if (number := splat(value)) is not None:
            return np.asarray(number)
        op = defining_op(value)
        if op is None or depth > MAX_DEPTH:
            return None
        found = self._read(op, view, depth)
        return self._constant(value, view) if found is None else found

    def _read(self, op: ir.Operation, view: View, depth: int) -> np.ndarray | None:
        function = ELEMENTWISE.get(op.name)
        if function is not None:
            operands = [self.sample(v, view if shape(v) else (), depth + 1) for v in op.operands]
            known = [operand for operand in operands if operand is not None]
            shapes = {operand.shape for operand in known if operand.ndim}
            return function(op, *known) if len(known) == len(operands) and len(shapes) <= 1 else None
        if op.name == "stablehlo.concatenate":
            part = part_of(self._space, op, view, self._at)
            return None if part is None else self.sample(part.value, part.view, depth + 1)
        if op.name == "stablehlo.reduce":
            return self._all_of(op, view, depth)
        inner = operand_view(self._space, op, view)
        return None if inner is None else self.sample(op.operands[0], inner, depth + 1)

    def _all_of(self, op: ir.Operation, view: View, depth: int) -> np.ndarray | None:
        """A conjunction over the components of an index."""
        if reduction(op) != "stablehlo.and" or splat(op.operands[1]) not in (True, -1, 1):
            return None
        (operand, _), dims = op.operands, int_list(op, "dimensions")
        if len(dims) != 1:
            return None
        size, result = shape(operand)[dims[0]], np.asarray(True)
        axis = self._space.new(size)
        inner = (*view[: dims[0]], (axis,) if size > 1 else (), *view[dims[0] :])
        for position in range(size):
            part = Sampler(self._space, self._base, self._samples, {**self._at, axis: position})
            found = part.sample(operand, inner, depth + 1)
            if found is None:
                return None
            # What does not depend on the label holds for every row, or is no test of the label.
            if found.ndim and found.shape != self._samples.shape:
                if not (found == found.reshape(-1)[0]).all():
                    return None
                found = found.reshape(-1)[0]
            result = result & found
        return np.asarray(result)

    def _constant(self, value: ir.Value, view: View) -> np.ndarray | None:
        array = evaluate(value)
        if array is None:
            return None
        for dim, axes in enumerate(view):
            if len(axes) == 1 and axes[0] in self._at:
                array = np.take(array, [self._at[axes[0]]], dim)
        if (array == array.reshape(-1)[0]).all():
            return np.asarray(array.reshape(-1)[0])
        return array.reshape(1, -1)


def _compare(op: ir.Operation, a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return COMPARE[comparison_direction(op)](a, b)


def _plain(function: Callable[..., np.ndarray]) -> Callable[..., np.ndarray]:
    return lambda op, *operands: np.asarray(function(*operands))


def _clamp(op: ir.Operation, low: np.ndarray, x: np.ndarray, high: np.ndarray) -> np.ndarray:
    return np.asarray(np.minimum(np.maximum(x, low), high))


def _select(op: ir.Operation, chosen: np.ndarray, a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return np.where(chosen.astype(bool), a, b)


def _negated(op: ir.Operation, a: np.ndarray) -> np.ndarray:
    type_ = element_type(op.results[0])
    return ~a.astype(bool) if isinstance(type_, ir.IntegerType) and type_.width == 1 else ~a


ELEMENTWISE: dict[str, Callable[..., np.ndarray]] = {
    "stablehlo.add": _plain(np.add),
    "stablehlo.subtract": _plain(np.subtract),
    "stablehlo.multiply": _plain(np.multiply),
    "stablehlo.maximum": _plain(np.maximum),
    "stablehlo.minimum": _plain(np.minimum),
    "stablehlo.negate": _plain(np.negative),
    "stablehlo.clamp": _clamp,
    "stablehlo.select": _select,
    "stablehlo.and": _plain(np.bitwise_and),
    "stablehlo.or": _plain(np.bitwise_or),
    "stablehlo.not": _negated,
    "stablehlo.compare": _compare,
    "stablehlo.convert": _plain(lambda x: x),
}
