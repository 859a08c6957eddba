"""From a root up to what is normalised: x, the axes of its means, and epsilon.

V is read as a polynomial in Σx and Σx². It is c (Σx²/n - (Σx/n)² + epsilon) for a layer norm, in one pass or in two,
clamped or not, and c (Σx²/n + epsilon) for an RMS norm.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass

from jaxlib.mlir import ir

from zenith_mlir.ir.cones import cone
from zenith_mlir.ir.facts import (
    SHAPE_OPS,
    defined_by,
    defining_op,
    element_type,
    float_width,
    has_static_shape,
    int_list,
    reduction,
    shape,
    splat,
)
from zenith_mlir.match.algebra.polynomial import ONE, NotPolynomial, Polynomial
from zenith_mlir.match.axes import Axis, AxisSpace, View
from zenith_mlir.match.chains import through_converts
from zenith_mlir.match.norm.reader import NormReader
from zenith_mlir.match.norm.spread import Spread

ROOTS = ("stablehlo.rsqrt", "stablehlo.sqrt", "stablehlo.power")
# How many operations are looked at above a root, and how many things x may be.
_MAX_OPS, _MAX_CANDIDATES = 28, 4


@dataclass(frozen=True)
class Statistics:
    """1/√(variance + epsilon) of the rows of `x`, the mean not subtracted before unless `centred`.

    V, the `variance`, is `scale` times that plus epsilon: r = 1/√V is 1/√scale of what a norm multiplies with. `views`
    are those of what V is computed from.
    """

    x: ir.Value
    view: View
    dims: tuple[int, ...]
    centred: bool
    epsilon: float
    scale: float
    variance: Polynomial
    reader: NormReader
    views: dict[ir.Value, View]

    @property
    def is_trailing(self) -> bool:
        """Whether the means are over the last dimensions of x."""
        resolve = self.reader.space.resolve
        return (
            bool(self.dims)
            and self.dims == tuple(range(len(self.view)))[-len(self.dims) :]
            and (resolve(axis for i in self.dims for axis in self.view[i]) == resolve(self.reader.normalised))
        )

    @property
    def vector_axes(self) -> frozenset[Axis]:
        """What a weight or a bias may run over: the axes of the means, or, where these are not the last, all but the
        batch, a first dimension of which there is no mean.
        """
        space, normalised = self.reader.space, self.reader.normalised
        if self.is_trailing:
            return frozenset(space.resolve(normalised))
        is_batch = not set(space.resolve(self.view[0])) & set(space.resolve(normalised))
        return frozenset(space.resolve(axis for dim in self.view[is_batch:] for axis in dim))

    @property
    def is_of_the_batch(self) -> bool:
        """Whether the means are over the first dimension, as in BatchNorm."""
        first = set(self.reader.space.resolve(self.view[0]))
        return bool(first) and first <= set(self.reader.space.resolve(self.reader.normalised))

    def following(self, *leaves: ir.Value) -> Spread[NormReader]:
        """What follows from V and from `leaves`, which have the view of x.

        Of what has the extent of x nothing else is looked into.
        """
        extent = shape(self.x)

        def enters(op: ir.Operation) -> bool:
            return op.name in SHAPE_OPS or op.results[0] in spread.views or shape(op.results[0]) != extent

        reader = self.reader.rooted(self.variance, enters, *leaves)
        spread = Spread(reader, {**self.views, **dict.fromkeys(leaves, self.view)}, extent, self.view)
        return spread


def statistics(root: ir.Operation) -> Statistics | None:
    """What `root` (an rsqrt, a sqrt or a power) is the root of; None if that is no variance.

    `dims` are the dimensions of x that the means are over.
    """
    variance = root.operands[0]
    if not (has_static_shape(variance) and float_width(element_type(variance)) >= 16):
        return None
    above = _above(variance)
    uncentred = None
    for summed, dims in itertools.islice(_candidates(above), _MAX_CANDIDATES):
        found = _statistics(root, above, summed, dims) or _before_reshape(root, above, summed, dims)
        if found is not None and (found.centred or defined_by(found.x, "stablehlo.subtract") is None):
            return found
        # The mean square of what a mean was subtracted from is a variance, further up.
        uncentred = uncentred or found
    return uncentred


def _above(value: ir.Value) -> list[ir.Operation]:
    """The closest operations above `value` in its block that a reader knows, users before producers."""
    found: dict[ir.Operation, None] = {}
    frontier = [value]
    while frontier and len(found) < _MAX_OPS:
        op = defining_op(frontier.pop(0))
        if op is not None and op not in found and op.name in NormReader.handlers:
            found[op] = None
            frontier.extend(operand for operand in op.operands if _is_result_in(operand, op.block))
    return list(found)


def _is_result_in(value: ir.Value, block: ir.Block) -> bool:
    op = defining_op(value)
    return op is not None and bool(op.block == block)


def _candidates(above: list[ir.Operation]) -> Iterator[tuple[ir.Value, tuple[int, ...]]]:
    """What x may be, with the dimensions of its means: what is summed, or what its square is."""
    tried: set[tuple[ir.Value, tuple[int, ...]]] = set()
    for op in above:
        if reduction(op) != "stablehlo.add":
            continue
        dims = tuple(int_list(op, "dimensions"))
        for x in _bases(through_converts(op.operands[0])):
            if (x, dims) not in tried and shape(x) == shape(op.operands[0]):
                tried.add((x, dims))
                yield x, dims


def _bases(summed: ir.Value) -> Iterator[ir.Value]:
    op = defining_op(summed)
    is_product = op is not None and op.name == "stablehlo.multiply" and op.operands[0] == op.operands[1]
    if op is not None and (is_product or (op.name == "stablehlo.power" and splat(op.operands[1]) == 2)):
        yield through_converts(op.operands[0])
    yield summed


def before_reshape(found: Statistics, root: ir.Operation) -> Statistics | None:
    """The same of what `found.x` is a reshape of, whose dimensions may hold axes of the means and others."""
    return _before_reshape(root, _above(root.operands[0]), found.x, found.dims)


def _before_reshape(
    root: ir.Operation, above: list[ir.Operation], summed: ir.Value, dims: tuple[int, ...]
) -> Statistics | None:
    reshape = defined_by(summed, "stablehlo.reshape")
    return None if reshape is None else _statistics(root, [*above, reshape], summed, dims, reshape.operands[0])


def _statistics(
    root: ir.Operation,
    above: list[ir.Operation],
    summed: ir.Value,
    dims: tuple[int, ...],
    source: ir.Value | None = None,
) -> Statistics | None:
    """The statistics of `summed` over `dims`, or with these of `source`, which it is a reshape of."""
    space, within = AxisSpace(), frozenset(above)
    summed_view = space.fresh_view(shape(summed))
    normalised = tuple(axis for i in dims for axis in summed_view[i])
    x = summed if source is None else source
    view = summed_view if source is None else space.regroup(summed_view, shape(x))
    if not normalised or view is None:
        return None
    if source is not None:
        dims = tuple(i for i, dim in enumerate(view) if dim and set(dim) <= set(normalised))
    reader = NormReader(space, x, view, normalised, lambda op: op in within)
    inside = Spread(reader, {x: view}, shape(x), view)
    for op in cone([root.operands[0]], (x,), lambda _, op: op in within):
        inside.take(op)
    variance = root.operands[0]
    named = inside.views.get(variance) or _like(variance, x, view)
    if named is None:
        return None
    inside.views[variance] = named
    try:
        polynomial = reader.resolved(reader.read(variance, named))
    except NotPolynomial:
        return None
    found = _shape_of(reader, polynomial)
    if found is None:
        return None
    centred, epsilon, scale = found
    return Statistics(x, view, dims, centred, epsilon, scale, polynomial, reader, inside.views)


def _like(value: ir.Value, x: ir.Value, view: View) -> View | None:
    """The view that `value` has where it meets x: dimensions are those of x, or of size one."""
    if len(shape(value)) != len(view) or any(
        own not in (1, size) for own, size in zip(shape(value), shape(x), strict=True)
    ):
        return None
    return tuple(dim if size != 1 else () for dim, size in zip(view, shape(value), strict=True))


def _shape_of(reader: NormReader, variance: Polynomial) -> tuple[bool, float, float] | None:
    """Whether it is centred, its epsilon, and what it is a multiple of."""
    n = reader.count
    if not n:
        return None
    squares = reader.resolved(reader.square_sum).scaled(1 / n)
    centred = squares - reader.resolved(reader.sum * reader.sum).scaled(n**-2)
    rest = Polynomial({monomial: c for monomial, c in variance.terms.items() if monomial != ONE})
    for known, is_centred in ((centred, True), (squares, False)):
        scale = rest.ratio_to(known)
        if scale is not None and scale > 0:
            return is_centred, variance.terms.get(ONE, 0.0) / scale, scale
    return None
