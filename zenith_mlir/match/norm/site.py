"""A matched norm, or its gradient, as a composite: attributes, operands, results, and the operations between them."""

from __future__ import annotations

import itertools
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from jaxlib.mlir import ir

from zenith_mlir.dialects import layer_norm, layer_norm_vjp, rms_norm, rms_norm_vjp
from zenith_mlir.dialects.group_norm import GroupNormSpec
from zenith_mlir.dialects.layout import Layout
from zenith_mlir.dialects.norm import NormSpec, NormVjpSpec
from zenith_mlir.ir.cones import cone
from zenith_mlir.ir.facts import defined_by, defining_op, element_type, float_width, producer, shape, users
from zenith_mlir.match.axes import Axis, View
from zenith_mlir.match.nomatch import NoMatch
from zenith_mlir.match.norm.forward import Normalised, Vector
from zenith_mlir.match.norm.gradient import NormGradient
from zenith_mlir.match.norm.statistics import Statistics
from zenith_mlir.match.placement import first_user, refuse_late

# By whether the mean is subtracted.
FORWARD: dict[bool, type[NormSpec]] = {True: layer_norm.LayerNormSpec, False: rms_norm.RmsNormSpec}
BACKWARD: dict[bool, type[NormVjpSpec]] = {
    True: layer_norm_vjp.LayerNormVjpSpec,
    False: rms_norm_vjp.RmsNormVjpSpec,
}
# What a program that computes a norm is at most.
_MAX_OPS = 256


@dataclass(frozen=True)
class Site:
    """What becomes one composite, standing before an operation."""

    spec: NormSpec | GroupNormSpec
    operands: Sequence[ir.Value]
    results: Sequence[ir.Value]
    ops: Sequence[ir.Operation]
    before: ir.Operation


def forward_site(found: Statistics, norm: Normalised) -> Site:
    """The norm as a composite; the addition of a residual just before comes along if nothing else stays behind.

    Raises: NoMatch if it depends on something that a norm does not.
    """
    vectors = [_with_shape(vector, found) for vector in (norm.factor.tensor, norm.bias.tensor)]
    operands = [found.x, *(vector for vector in vectors if vector is not None)]
    results, added = [norm.result], _residual(found, norm, operands)
    if added is not None:
        operands[:1] = list(added.operands)
        results.append(found.x)
    spec = FORWARD[found.centred](
        epsilon=found.epsilon,
        axes=len(found.dims),
        weight=vectors[0] is not None,
        bias=vectors[1] is not None,
        residual=added is not None,
        offset=0.0 if vectors[0] is None else norm.factor.number,
    )
    spec.verify([shape(value) for value in operands], [shape(value) for value in results])
    return Site(spec, operands, results, between(results, operands), producer(norm.result))


def group_site(found: Statistics, norm: Normalised) -> Site:
    """The norm over axes that are not the last as a composite.

    Raises: NoMatch if it depends on something that a norm does not.
    """
    space = found.reader.space
    view, normalised = space.resolve_view(found.view), space.resolve(found.reader.normalised)
    counts = {"n": itertools.count(), "p": itertools.count()}
    names: dict[Axis, str] = {}
    for axis in (axis for dim in view for axis in dim):
        letter = "n" if axis in normalised else "p"
        names[axis] = f"{letter}{next(counts[letter])}"

    def layout(vector: Vector) -> Layout | None:
        return None if vector.tensor is None else _layout(names, vector.view)

    spec = GroupNormSpec(
        axes={name: space.size(axis) for axis, name in names.items()},
        x=_layout(names, view),
        normalised=tuple(names[axis] for axis in normalised),
        epsilon=found.epsilon,
        weight=layout(norm.factor),
        bias=layout(norm.bias),
        offset=0.0 if norm.factor.tensor is None else norm.factor.number,
        centred=found.centred,
    )
    operands = [v for v in (found.x, norm.factor.tensor, norm.bias.tensor) if v is not None]
    spec.verify([shape(value) for value in operands], [shape(norm.result)])
    return Site(spec, operands, [norm.result], between([norm.result], operands), producer(norm.result))


def _layout(names: dict[Axis, str], view: View) -> Layout:
    return Layout(tuple(tuple(names[axis] for axis in dim) for dim in view))


def backward_site(found: Statistics, matched: NormGradient) -> Site:
    """The gradient as a composite.

    Raises: NoMatch if it depends on something that no norm's does, or is used before all that it depends on is known.
    """
    weight = _with_shape(matched.factor.tensor, found)
    spec = BACKWARD[found.centred](
        epsilon=found.epsilon,
        axes=len(found.dims),
        weight=weight is not None,
        offset=0.0 if weight is None else matched.factor.number,
        sum_cotangent=matched.sum_cotangent is not None,
        dweight=matched.dweight is not None,
        dbias=matched.dbias is not None,
    )
    operands = [v for v in (found.x, weight, matched.cotangent, matched.sum_cotangent) if v is not None]
    results = [v for v in (matched.dx, matched.dweight, matched.dbias) if v is not None]
    spec.verify([shape(value) for value in operands], [shape(value) for value in results])
    ops = between(results, operands)
    before = first_user(results, producer(matched.dx).block, ops)
    refuse_late(operands, before)
    return Site(spec, operands, results, ops, before)


def between(results: Sequence[ir.Value], operands: Collection[ir.Value]) -> list[ir.Operation]:
    """The operations that compute `results` from `operands`.

    Raises: NoMatch if they take something else, or are too many.
    """
    seen = 0

    def enter(_: ir.Value, op: ir.Operation | None) -> bool:
        nonlocal seen
        seen += 1
        if op is None or len(op.regions) > int(op.name == "stablehlo.reduce") or seen > _MAX_OPS:
            raise NoMatch(producer(results[0]), "it depends on something that a norm does not")
        return op.name != "stablehlo.constant"

    return cone(results, operands, enter)


def _with_shape(vector: ir.Value | None, found: Statistics) -> ir.Value | None:
    """`vector` in the shape of the normalised axes: where it has more dimensions, of size one, two reshapes are put
    between it and its users, and what lies between these is returned.
    """
    wanted = [shape(found.x)[i] for i in found.dims]
    if vector is None or list(shape(vector)) == wanted:
        return vector
    first, *others = users(vector)
    if others or first.name != "stablehlo.reshape" or list(shape(first.results[0])) != wanted:
        location = first.location
        first = _reshaped(vector, wanted, location)
        outer = _reshaped(first.results[0], shape(vector), location)
        vector.replace_all_uses_except(outer.results[0], [first])
    shaped: ir.Value = first.results[0]
    return shaped


def _reshaped(value: ir.Value, dims: Sequence[int], location: ir.Location) -> ir.Operation:
    """`value` in another shape, right after it is known."""
    after = defining_op(value)
    if after is not None:
        point = ir.InsertionPoint.after(after)
    else:
        assert isinstance(value.owner, ir.Block)
        point = ir.InsertionPoint.at_block_begin(value.owner)
    with point, location:
        type_ = ir.RankedTensorType.get(list(dims), element_type(value))
        return ir.Operation.create("stablehlo.reshape", results=[type_], operands=[value])


def _residual(found: Statistics, norm: Normalised, operands: Sequence[ir.Value]) -> ir.Operation | None:
    """The addition that gives x, if it and the norm can become one: of what lies between, nothing is used elsewhere,
    and x is not used before the norm is known.

    A sum with a product of 16-bit floats is that product's.
    """
    added = defined_by(found.x, "stablehlo.add")
    if added is None or any(_is_broadcast_or_product(value) for value in added.operands):
        return None
    ops = set(between([norm.result], operands))
    used = [user for op in ops for result in op.results if result != norm.result for user in users(result)]
    if any(user not in ops for user in used) or added.block != producer(norm.result).block:
        return None
    others = [user for user in users(found.x) if user not in ops]
    if others and not producer(norm.result).is_before_in_block(first_user([found.x], added.block, ops)):
        return None
    return added


def _is_broadcast_or_product(value: ir.Value) -> bool:
    op = defining_op(value)
    if op is None or op.name != "stablehlo.dot_general":
        return op is not None and op.name in ("stablehlo.broadcast_in_dim", "stablehlo.constant")
    return all(float_width(element_type(operand)) == 16 for operand in op.operands)
