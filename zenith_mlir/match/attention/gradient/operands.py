"""The operands and results of gradient products: the same queries, keys and values as in the forward, and what is done
with a gradient next.
"""

from __future__ import annotations

from jaxlib.mlir import ir

from zenith_mlir.ir.facts import int_list, is_float_convert, reduction, shape, splat, users
from zenith_mlir.match.attention.gradient.region import reduced_view
from zenith_mlir.match.attention.operands import Operand
from zenith_mlir.match.axes import Axis, AxisSpace, View, axes_of, result_view

Renaming = dict[Axis, Axis]


def renaming(space: AxisSpace, found: Operand, known: Operand, logits: View) -> Renaming | None:
    """Which new axes of `found` are which of `known`, if both are the same value read the same way.

    Only features are new: what a product runs over of the axes of the `logits` are those themselves.
    """
    if found.value != known.value:
        return None
    names: Renaming = {}
    pairs = zip(space.resolve_view(found.view), space.resolve_view(known.view), strict=True)
    fixed = axes_of(space.resolve_view(logits))
    for mine, theirs in pairs:
        if len(mine) != len(theirs):
            return None
        for a, b in zip(mine, theirs, strict=True):
            if a == b:
                continue
            if {a, b} & fixed or space.size(a) != space.size(b) or names.setdefault(a, b) != b:
                return None
    return names


def renamed(space: AxisSpace, view: View, names: Renaming) -> View:
    return tuple(tuple(names.get(axis, axis) for axis in dim) for dim in space.resolve_view(view))


def absorb_gradient(space: AxisSpace, gradient: Operand, own: set[Axis]) -> Operand:
    """Follow a gradient down through transposes, sums over axes that are not its `own`, and a last conversion, as long
    as nobody else uses it.
    """
    found = gradient
    value, view = gradient.value, gradient.view
    while len(following := users(value)) == 1:
        (op,) = following
        moved = _moved(space, op, value, view, own)
        if moved is None:
            break
        value, view = op.results[0], moved
        # A reshape alone costs nothing where it is.
        if op.name != "stablehlo.reshape":
            found = Operand(value, view)
        if op.name == "stablehlo.convert":
            break
    return found


def _moved(space: AxisSpace, op: ir.Operation, value: ir.Value, view: View, own: set[Axis]) -> View | None:
    if op.name in ("stablehlo.transpose", "stablehlo.reshape"):
        return result_view(space, op, view)
    if op.name == "stablehlo.convert":
        return view if is_float_convert(op) else None
    if is_sum(op):
        view = space.resolve_view(view)
        summed = {axis for i in int_list(op, "dimensions") for axis in view[i]}
        return None if summed & own else reduced_view(op, view)
    return None


def is_sum(op: ir.Operation) -> bool:
    return reduction(op) == "stablehlo.add" and splat(op.operands[1]) == 0 and len(shape(op.operands[1])) == 0
