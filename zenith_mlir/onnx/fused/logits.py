"""The steps of a zenith.attention on its logits and probabilities, as nodes."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby

import numpy as np
import onnx_ir as oir

from zenith_mlir.dialects.attention import AttentionSpec, Step
from zenith_mlir.onnx.arrange import elementwise
from zenith_mlir.onnx.convert import Walk
from zenith_mlir.onnx.fused.layouts import over
from zenith_mlir.onnx.fused.operands import cast_view
from zenith_mlir.onnx.fused.softmax import normalised
from zenith_mlir.onnx.lower.number import splat_view
from zenith_mlir.onnx.lower.shape import concatenate, number_line, slice_axes
from zenith_mlir.onnx.view import View

__all__ = ["HIDES", "Logits", "hides"]

_BOOL = oir.DataType.BOOL
# A fill this low next to any logit that is not itself as large leaves nothing of it: the weight is 0, and where a whole
# row is filled all weights are equal.
HIDES = -1e9
# Bands of more elements are computed from the numbers of rows and columns, so that they are no part of the file;
# onnxruntime computes them once, when it loads the model.
_WRITTEN = 1 << 16


def hides(step: Step, kinds: Sequence[str] = ("select", "band")) -> bool:
    """Whether a step puts a number in the place of logits that leaves nothing of them."""
    return step.kind in kinds and step.value is not None and step.value <= HIDES


@dataclass(frozen=True)
class Logits:
    """Steps on views over `spec.logit_axes`; modifiers by the number of their role."""

    walk: Walk
    spec: AttentionSpec
    modifiers: Mapping[int, View]

    @classmethod
    def of(cls, walk: Walk, spec: AttentionSpec, views: Sequence[View], dtype: oir.DataType) -> Logits:
        """`views` are those of all roles."""
        modifiers = {}
        for i, (view, layout) in enumerate(zip(views[3:], spec.modifiers, strict=True), 3):
            typed = view if view.dtype == _BOOL else cast_view(walk.builder, view, dtype)
            modifiers[i] = over(walk.builder, typed, layout, spec.axes, spec.logit_axes)
        return cls(walk, spec, modifiers)

    def probabilities(self, x: View) -> View:
        """What multiplies the values, of the bare products."""
        before = [step for step in self.spec.steps if not step.is_post and not step.is_sink]
        added = False
        for fill, run in groupby(before, lambda step: step.value if hides(step) else None):
            steps = list(run)
            if fill is None:
                x = self._each(x, steps)
                added |= any(step.kind in ("add", "subtract", "multiply", "divide", "band_add") for step in steps)
            else:
                x = self._filled(x, self.visible(steps), fill, exact=added)
        p = self._softmax(x)
        return self._each(p, [step for step in self.spec.steps if step.is_post])

    def _each(self, x: View, steps: Sequence[Step]) -> View:
        factor = 1.0
        for step in steps:
            if step.kind in ("scale", "post_scale"):  # neighbouring factors are one
                factor *= step.value or 0.0
                continue
            x, factor = self._step(self._scaled(x, factor), step), 1.0
        return self._scaled(x, factor)

    def _scaled(self, x: View, factor: float) -> View:
        return x if factor == 1 else self._node("Mul", x, splat_view(self.walk, factor, x))

    def _step(self, x: View, step: Step) -> View:
        kind = step.kind.removeprefix("post_")
        if kind == "tanh":
            return self._node("Tanh", x)
        if kind in ("band", "select") or (step.operand is not None and self.modifiers[step.operand].dtype == _BOOL):
            return self._where(self.visible([step]), x, splat_view(self.walk, step.value or 0.0, x))
        if kind == "band_add":
            zero, number = splat_view(self.walk, 0, x), splat_view(self.walk, step.value or 0.0, x)
            return self._node("Add", x, self._where(self.visible([step]), zero, number))
        if step.operand is not None:
            return self._node(_BINARY[kind], x, self.modifiers[step.operand])
        return self._node(_WITH_NUMBER[kind], x, splat_view(self.walk, step.value or 0.0, x))

    # What is seen

    def visible(self, steps: Sequence[Step]) -> View:
        """Booleans: what all of the masks leave."""
        seen = [self._band(step) if step.operand is None else self._mask(step) for step in steps]
        result = seen[0]
        for other in seen[1:]:
            result = self._node("And", result, other)
        return result

    def _mask(self, step: Step) -> View:
        assert step.operand is not None
        mask = self.modifiers[step.operand]
        return self._node("Not", mask) if step.negated else mask

    def _band(self, step: Step) -> View:
        """low <= column - row <= high, of numbers where the sizes are numbers."""
        builder, spec = self.walk.builder, self.spec
        t, s = spec.size("t"), spec.size("s")
        if t * s <= _WRITTEN and not builder.sizes.is_symbolic(t) and not builder.sizes.is_symbolic(s):
            make = lambda: _inside(np.arange(s)[None, :] - np.arange(t)[:, None], step)  # noqa: E731
            return self._over_rows(builder.known(("band", t, s, step.low, step.high), make), ("t", "s"))
        row, column = (self._over_rows(self._line(size), (name,)) for size, name in ((t, "t"), (s, "s")))
        distance = self._node("Sub", column, row)
        bounds = [("GreaterOrEqual", step.low), ("LessOrEqual", step.high)]
        found = [
            elementwise(builder, name, distance, splat_view(self.walk, bound, distance), dtype=_BOOL)
            for name, bound in bounds
            if bound is not None
        ]
        return found[0] if len(found) == 1 else self._node("And", *found)

    def _line(self, size: int) -> oir.Value:
        builder = self.walk.builder
        if builder.sizes.is_symbolic(size):
            return number_line(builder, size, oir.DataType.INT64)
        return builder.known(("line", size), lambda: np.arange(size))

    def _over_rows(self, value: oir.Value, names: Sequence[str]) -> View:
        order, sizes = self.spec.logit_axes, self.spec.axes
        if "t" not in order and "t" in names:  # one row
            names = tuple(name for name in names if name != "t")
            value = self.walk.builder.reshape(value, [self.spec.axes[name] for name in names])
        return View(
            value,
            tuple(names.index(axis) if axis in names else None for axis in order),
            tuple(sizes[axis] for axis in order),
        )

    def _filled(self, x: View, seen: View, fill: float, exact: bool) -> View:
        """x where it is seen, else `fill`. A mask of fewer elements becomes bounds, of which Min takes one: onnxruntime
        is slow at Where. A hidden logit is no smaller than the fill, unless what was added made it.
        """
        if exact or len(seen.order) == len([size for size in x.shape if size != 1]):
            return self._where(seen, x, splat_view(self.walk, fill, x))
        return self._node("Min", x, self.bounds(seen, math.inf, fill, x.dtype))

    def bounds(self, seen: View, yes: float, no: float, dtype: oir.DataType) -> View:
        """One number where it is seen, another where not."""
        return self._where(seen, *(splat_view(self.walk, number, seen, dtype) for number in (yes, no)))

    # Rows

    def _softmax(self, x: View) -> View:
        sinks = [step for step in self.spec.steps if step.is_sink]
        builder = self.walk.builder
        s = x.shape[-1]
        for step in sinks:
            assert step.operand is not None
            sink = self.modifiers[step.operand]
            x = concatenate(builder, [x, View(sink.value, (*sink.axes[:-1], None), (*x.shape[:-1], 1))], x.rank - 1)
        p = normalised(builder, "Softmax", x)
        if not sinks:
            return p
        return slice_axes(builder, p, [0] * p.rank, [*p.shape[:-1], s], [1] * p.rank)

    def _where(self, seen: View, yes: View, no: View) -> View:
        known = [array for view in (seen, yes, no) if (array := self.walk.builder.array(view.value)) is not None]
        if len(known) == 3 and not yes.order and not no.order:
            numbers = [array.reshape(-1)[0] for array in known[1:]]
            make = lambda: np.asarray(np.where(known[0], *numbers), yes.dtype.numpy())  # noqa: E731
            return seen.with_value(self.walk.builder.known((seen.value, *map(str, numbers), yes.dtype), make))
        return elementwise(self.walk.builder, "Where", seen, yes, no, dtype=yes.dtype, data=1)

    def _node(self, op_type: str, *views: View) -> View:
        known = [self.walk.builder.array(view.value) for view in views]
        if op_type in _FOLDED and all(array is not None for array in known) and len({v.axes for v in views}) == 1:
            return views[0].with_value(self.walk.builder.constant(_FOLDED[op_type](*known)))
        return elementwise(self.walk.builder, op_type, *views)


def _inside(distance: np.ndarray, step: Step) -> np.ndarray:
    inside = np.ones(distance.shape, bool)
    inside &= True if step.low is None else distance >= step.low
    inside &= True if step.high is None else distance <= step.high
    return inside


_FOLDED: dict[str, Callable[..., np.ndarray]] = {"And": np.logical_and, "Not": np.logical_not}
_BINARY = {"multiply": "Mul", "divide": "Div", "add": "Add", "subtract": "Sub"}
_WITH_NUMBER = {"offset": "Add", "maximum": "Max", "minimum": "Min"}
