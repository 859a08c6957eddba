"""Which column an index means: integer arithmetic on a label, compared by value.

take_along_axis writes min, max, comparisons and selects around a label before it gathers. Instead of knowing their
forms, the index is computed for labels on both sides of everything that could be a limit, and compared with what
zenith.cross_entropy says that a label means.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
from jaxlib.mlir import ir

from zenith_mlir.ir.facts import SHAPE_OPS, defining_op, element_type, shape, splat
from zenith_mlir.match.axes import Axis, AxisSpace, View, operand_view
from zenith_mlir.match.cross_entropy.sampling import ELEMENTWISE, MAX_DEPTH, Placed, Sampler, part_of


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
        sampler = Sampler(space, base, samples, at)
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
    """Whether `labels` are clamped to the columns, all of them: labels that are in range stay what they are."""
    op = defining_op(labels)
    while op is not None and op.name in SHAPE_OPS:
        op = defining_op(op.operands[0])
    if op is None or op.name != "stablehlo.clamp":
        return False
    low, high = splat(op.operands[0]), splat(op.operands[2])
    return low == 0 and high == count - 1


def constant_truth(space: AxisSpace, predicate: Placed) -> bool | None:
    """What `predicate` is everywhere, if that is known."""
    found = Sampler(space, None, np.zeros(1, np.int64), {}).sample(predicate.value, predicate.view, 0)
    return bool(found.reshape(-1)[0]) if found is not None and (found == found.reshape(-1)[0]).all() else None


def _numbers(values: list[ir.Value]) -> set[int]:
    """Integer constants close above `values`: what labels may be compared with."""
    found: set[int] = set()
    frontier = [(value, 0) for value in values]
    seen: set[ir.Value] = set()
    while frontier and len(seen) < 256:
        value, depth = frontier.pop()
        op = defining_op(value)
        if value in seen or op is None or depth > MAX_DEPTH or not isinstance(element_type(value), ir.IntegerType):
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
        part = part_of(space, op, here.view, at)
        return [] if part is None else [part]
    if op.name in ELEMENTWISE:
        same = [value for value in op.operands if shape(value) == shape(here.value)]
        return [Placed(value, here.view) for value in same]
    inner = operand_view(space, op, here.view) if op.name != "stablehlo.convert" else here.view
    return [] if inner is None else [Placed(op.operands[0], inner)]
