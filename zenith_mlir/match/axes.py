"""Named axes of tensors, followed through transposes, reshapes and broadcasts.

A *view* says what each dimension of a value runs over: a tuple of axes per dimension, major to minor, empty where the
dimension has size one. The product of the axes' sizes is the dimension's size. A reshape that splits a dimension splits
its axis, for every view at once, because views name axes and the space knows which axes have been split into which.

With views a matcher needs no list of layouts: BTNH or BNTH, grouped heads in one dimension or two, and the value
operand on either side of a dot_general are the same thing under different names.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from jaxlib.mlir import ir

from zenith_mlir.ir.dots import DotDims
from zenith_mlir.ir.facts import has_static_shape, int_list, is_float_convert, shape

Axis = int
View = tuple[tuple[Axis, ...], ...]


class AxisSpace:
    """The axes met while matching one site."""

    def __init__(self) -> None:
        self._sizes: list[int] = []
        self._parts: dict[Axis, tuple[Axis, Axis]] = {}
        self._whole: set[Axis] = set()

    def new(self, size: int) -> Axis:
        self._sizes.append(size)
        return len(self._sizes) - 1

    def size(self, axis: Axis) -> int:
        return self._sizes[axis]

    def fresh_view(self, dims: Sequence[int]) -> View:
        """A view of new axes, one for each dimension larger than one."""
        return tuple((self.new(size),) if size != 1 else () for size in dims)

    def keep_whole(self, axes: Iterable[Axis]) -> None:
        """From now on `axes` are not split: a reshape that would cut one of them has no view."""
        self._whole.update(self.resolve(axes))

    def split(self, axis: Axis, minor_size: int) -> tuple[Axis, Axis]:
        """Split `axis` into a major and a minor axis; the minor one has `minor_size` elements."""
        parts = (self.new(self.size(axis) // minor_size), self.new(minor_size))
        self._parts[axis] = parts
        return parts

    def resolve(self, axes: Iterable[Axis]) -> tuple[Axis, ...]:
        """`axes` with every axis that was split replaced by its parts."""
        if not self._parts:
            return tuple(axes)
        out: list[Axis] = []
        for axis in axes:
            out.extend(self.resolve(self._parts[axis]) if axis in self._parts else (axis,))
        return tuple(out)

    @property
    def is_split(self) -> bool:
        """Whether any axis was split."""
        return bool(self._parts)

    def resolve_view(self, view: View) -> View:
        if not self._parts:
            return view
        return tuple(self.resolve(dim) for dim in view)

    def regroup(self, view: View, dims: Sequence[int]) -> View | None:
        """`view`, read in row-major order, as a view of shape `dims`; None if an axis would be cut unevenly."""
        if 0 in dims or any(self.size(axis) == 0 for dim in view for axis in dim):
            return None
        pending = list(reversed(self.resolve(axis for dim in view for axis in dim)))
        out: list[tuple[Axis, ...]] = []
        for size in dims:
            group: list[Axis] = []
            while size > 1:
                if not pending:
                    return None
                axis = pending.pop()
                if self.size(axis) > size:
                    if axis in self._whole or self.size(axis) % size:
                        return None
                    axis, minor = self.split(axis, self.size(axis) // size)
                    pending.append(minor)
                if size % self.size(axis):
                    return None
                group.append(axis)
                size //= self.size(axis)
            out.append(tuple(group))
        return None if pending else tuple(out)


def axes_of(view: View) -> set[Axis]:
    return {axis for dim in view for axis in dim}


def operand_view(space: AxisSpace, op: ir.Operation, view: View) -> View | None:
    """The view of the operand of a shape operation (transpose, reshape, broadcast_in_dim, convert) whose result has
    `view`.
    """
    step = _OPERAND_VIEWS.get(op.name)
    return step(space, op, view) if step is not None and has_static_shape(op.operands[0]) else None


def result_view(space: AxisSpace, op: ir.Operation, view: View) -> View | None:
    """The view of the result of a shape operation whose operand has `view`; None where elements are repeated."""
    step = _RESULT_VIEWS.get(op.name)
    return step(space, op, view) if step is not None and has_static_shape(op.results[0]) else None


def dot_operand_views(space: AxisSpace, op: ir.Operation, view: View) -> tuple[View, View]:
    """Views of both operands of a dot_general whose result has `view`; contracted dimensions get new axes."""
    dims = DotDims.of(op)
    lhs_shape, rhs_shape = shape(op.operands[0]), shape(op.operands[1])
    lhs: list[tuple[Axis, ...]] = [()] * len(lhs_shape)
    rhs: list[tuple[Axis, ...]] = [()] * len(rhs_shape)
    result = iter(view)
    for a, b in zip(dims.lhs_batch, dims.rhs_batch, strict=True):
        lhs[a] = rhs[b] = next(result)
    for a in dims.lhs_free(len(lhs_shape)):
        lhs[a] = next(result)
    for b in dims.rhs_free(len(rhs_shape)):
        rhs[b] = next(result)
    for a, b in zip(dims.lhs_contracting, dims.rhs_contracting, strict=True):
        lhs[a] = rhs[b] = (space.new(lhs_shape[a]),) if lhs_shape[a] != 1 else ()
    return tuple(lhs), tuple(rhs)


def dot_other_view(space: AxisSpace, op: ir.Operation, index: int, view: View) -> tuple[View, View]:
    """For a dot_general whose operand `index` has `view`: the view of the other operand and of the result."""
    dims = DotDims.of(op)
    here = (dims.lhs_batch, dims.lhs_contracting)
    there = (dims.rhs_batch, dims.rhs_contracting)
    if index == 1:
        here, there = there, here
    other_shape = shape(op.operands[1 - index])
    other: list[tuple[Axis, ...]] = [()] * len(other_shape)
    for mine, theirs in zip(here[0] + here[1], there[0] + there[1], strict=True):
        other[theirs] = view[mine]
    bound = set(there[0] + there[1])
    for i, size in enumerate(other_shape):
        if i not in bound and size != 1:
            other[i] = (space.new(size),)
    sides: list[list[tuple[Axis, ...]]] = [
        [view[i] for i in range(len(view)) if i not in here[0] + here[1]],
        [other[i] for i in range(len(other)) if i not in bound],
    ]
    free = sides[0] + sides[1] if index == 0 else sides[1] + sides[0]
    return tuple(other), tuple([view[i] for i in here[0]] + free)


def _operand_of_transpose(space: AxisSpace, op: ir.Operation, view: View) -> View:
    permutation = int_list(op, "permutation")
    return tuple(view[permutation.index(i)] for i in range(len(view)))


def _operand_of_reshape(space: AxisSpace, op: ir.Operation, view: View) -> View | None:
    return space.regroup(view, shape(op.operands[0]))


def _operand_of_broadcast(space: AxisSpace, op: ir.Operation, view: View) -> View:
    sizes = shape(op.operands[0])
    return tuple(view[dim] if sizes[i] != 1 else () for i, dim in enumerate(int_list(op, "broadcast_dimensions")))


def _of_convert(space: AxisSpace, op: ir.Operation, view: View) -> View | None:
    """Through integers a value does not stay what it is."""
    return view if is_float_convert(op) else None


def _result_of_transpose(space: AxisSpace, op: ir.Operation, view: View) -> View:
    return tuple(view[i] for i in int_list(op, "permutation"))


def _result_of_reshape(space: AxisSpace, op: ir.Operation, view: View) -> View | None:
    return space.regroup(view, shape(op.results[0]))


def _result_of_broadcast(space: AxisSpace, op: ir.Operation, view: View) -> View | None:
    dims, outer = int_list(op, "broadcast_dimensions"), shape(op.results[0])
    repeats = any(size != 1 and (i not in dims or view[dims.index(i)] == ()) for i, size in enumerate(outer))
    return None if repeats else tuple(view[dims.index(i)] if i in dims else () for i in range(len(outer)))


_OPERAND_VIEWS = {
    "stablehlo.transpose": _operand_of_transpose,
    "stablehlo.reshape": _operand_of_reshape,
    "stablehlo.broadcast_in_dim": _operand_of_broadcast,
    "stablehlo.convert": _of_convert,
}
_RESULT_VIEWS = {
    "stablehlo.transpose": _result_of_transpose,
    "stablehlo.reshape": _result_of_reshape,
    "stablehlo.broadcast_in_dim": _result_of_broadcast,
    "stablehlo.convert": _of_convert,
}
