"""Which column an index means: integer arithmetic on a label, compared by value.

take_along_axis writes min, max, comparisons and selects around a label before it gathers. Instead of knowing their
forms, the index is computed for labels on both sides of everything that could be a limit, and compared with what
zenith.cross_entropy says that a label means.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
from jaxlib.mlir import ir

from zenith_mlir.canonical.splats import COMPARE, comparison_direction
from zenith_mlir.ir.facts import SHAPE_OPS, defining_op, element_type, int_list, reduction, shape, splat
from zenith_mlir.match.axes import Axis, AxisSpace, View, operand_view
from zenith_mlir.match.constants import evaluate

_MAX_DEPTH = 24


@dataclass(frozen=True)
class Placed:
    """A value and what its dimensions run over."""

    value: ir.Value
    view: View


@dataclass(frozen=True)
class Label:
    """The value that holds the labels, and what a label outside of the columns means: "fill" or "zero"."""

    labels: Placed
    outside: str


def label_of(space: AxisSpace, index: Placed, valid: Placed | None, at: Mapping[Axis, int], count: int) -> Label | None:
    """The label whose column `index` is, among `count` columns, where `valid` holds; None if that is not understood.

    Along the axes in `at`, the element with that number is meant.
    """
    limits = _numbers([index.value, *([] if valid is None else [valid.value])])
    found: Label | None = None
    for base in _ancestors(space, index, at):
        samples = _samples(base.value, count, limits)
        sampler = _Sampler(space, base, samples, at)
        column = sampler.sample(index.value, index.view, 0)
        holds = np.asarray(True) if valid is None else sampler.sample(valid.value, valid.view, 0)
        if column is None or holds is None or column.ndim > 1 or holds.ndim > 1:
            continue
        inside = (column >= 0) & (column < count) & holds.astype(bool)
        columns = np.broadcast_to(np.where(inside, column, -1), samples.shape)
        if np.array_equal(columns, np.where((samples >= -count) & (samples < count), samples % count, -1)):
            return Label(base, "fill")
        if np.array_equal(columns, np.where((samples >= 0) & (samples < count), samples, -1)):
            found = found or Label(base, "zero")
    return found


def is_in_range(labels: ir.Value, count: int) -> bool:
    """Whether `labels` are clamped to the columns."""
    op = defining_op(labels)
    while op is not None and op.name in SHAPE_OPS:
        op = defining_op(op.operands[0])
    if op is None or op.name != "stablehlo.clamp":
        return False
    low, high = splat(op.operands[0]), splat(op.operands[2])
    return low is not None and high is not None and low >= 0 and high < count


def constant_truth(space: AxisSpace, predicate: Placed) -> bool | None:
    """What `predicate` is everywhere, if that is known."""
    found = _Sampler(space, None, np.zeros(1, np.int64), {}).sample(predicate.value, predicate.view, 0)
    return bool(found.reshape(-1)[0]) if found is not None and (found == found.reshape(-1)[0]).all() else None


def _numbers(values: list[ir.Value]) -> set[int]:
    """Integer constants close above `values`: what labels may be compared with."""
    found: set[int] = set()
    frontier = [(value, 0) for value in values]
    seen: set[ir.Value] = set()
    while frontier and len(seen) < 256:
        value, depth = frontier.pop()
        op = defining_op(value)
        if value in seen or op is None or depth > _MAX_DEPTH or not isinstance(element_type(value), ir.IntegerType):
            continue
        seen.add(value)
        number = splat(value)
        if number is not None:
            found.add(int(number))
        frontier += [(operand, depth + 1) for operand in op.operands]
    return found


def _samples(labels: ir.Value, count: int, limits: set[int]) -> np.ndarray:
    type_ = ir.IntegerType(element_type(labels))
    low, high = (
        (0, 2**type_.width - 1) if type_.is_unsigned else (-(2 ** (type_.width - 1)), 2 ** (type_.width - 1) - 1)
    )
    centers = {-2 * count, -count, 0, count, 2 * count, *limits, *(limit - count for limit in limits)}
    near = [center + step for center in centers for step in range(-2, 3)]
    some = sorted({*near, count // 2, -(count // 2), count // 3})
    return np.array([number for number in some if low <= number <= high], np.int64)


def _ancestors(space: AxisSpace, index: Placed, at: Mapping[Axis, int]) -> Iterator[Placed]:
    """Integer values that `index` is computed from, near ones first; none that `at` cuts an element out of."""
    seen: set[tuple[ir.Value, View]] = set()
    frontier = [index]
    while frontier:
        here = frontier.pop(0)
        key = (here.value, space.resolve_view(here.view))
        type_ = element_type(here.value)
        if key in seen or len(seen) > 64 or not isinstance(type_, ir.IntegerType) or type_.width == 1:
            continue
        seen.add(key)
        if splat(here.value) is None and not any(axis in at for dim in key[1] for axis in dim):
            yield Placed(*key)
        frontier += _above(space, here, at)


def _above(space: AxisSpace, here: Placed, at: Mapping[Axis, int]) -> list[Placed]:
    op = defining_op(here.value)
    if op is None:
        return []
    if op.name == "stablehlo.concatenate":
        part = _part(space, op, here.view, at)
        return [] if part is None else [part]
    if op.name in _ELEMENTWISE:
        same = [value for value in op.operands if shape(value) == shape(here.value)]
        return [Placed(value, here.view) for value in same]
    inner = operand_view(space, op, here.view) if op.name != "stablehlo.convert" else here.view
    return [] if inner is None else [Placed(op.operands[0], inner)]


def _part(space: AxisSpace, op: ir.Operation, view: View, at: Mapping[Axis, int]) -> Placed | None:
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


class _Sampler:
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
        if op is None or depth > _MAX_DEPTH:
            return None
        found = self._read(op, view, depth)
        return self._constant(value, view) if found is None else found

    def _read(self, op: ir.Operation, view: View, depth: int) -> np.ndarray | None:
        function = _ELEMENTWISE.get(op.name)
        if function is not None:
            operands = [self.sample(v, view if shape(v) else (), depth + 1) for v in op.operands]
            known = [operand for operand in operands if operand is not None]
            shapes = {operand.shape for operand in known if operand.ndim}
            return function(op, *known) if len(known) == len(operands) and len(shapes) <= 1 else None
        if op.name == "stablehlo.concatenate":
            part = _part(self._space, op, view, self._at)
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
            part = _Sampler(self._space, self._base, self._samples, {**self._at, axis: position})
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


_ELEMENTWISE: dict[str, Callable[..., np.ndarray]] = {
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
