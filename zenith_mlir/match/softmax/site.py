"""The softmax or log-softmax of rows of logits, and its gradient.

As for a cross-entropy, every value of the logits' extent that follows from the exponentials is compared (`formula.py`).
A gradient takes y and dy and nothing else: where the program makes it of the exponentials and their sum, y and 1, or
exp y and 1, stand for these, as only their quotient counts.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from jaxlib.mlir import ir

from zenith_mlir.ir.cones import cone
from zenith_mlir.ir.facts import defined_by, element_type, is_float, is_float_convert, producer, shape, splat, users
from zenith_mlir.match.algebra.polynomial import NotPolynomial, Polynomial
from zenith_mlir.match.constants import EXACT_OPS
from zenith_mlir.match.cross_entropy.exponentials import Rows, rows_of, unrounded
from zenith_mlir.match.cross_entropy.region import Region, downstream, survivor
from zenith_mlir.match.nomatch import NoMatch
from zenith_mlir.match.softmax.formula import cotangent, result


@dataclass(frozen=True)
class Forward:
    """`value` is the softmax of `scale` times `x`, or its logarithm, computed by `ops`."""

    value: ir.Value
    log: bool
    x: ir.Value
    scale: float
    ops: list[ir.Operation]


@dataclass(frozen=True)
class Gradient:
    """`value` is `scale` times the gradient for the cotangent `dy`, computed by `ops` from that, from the result of the
    forward and from the exponentials and their sum. `multiples` of dy take part, too.
    """

    value: ir.Value
    dy: ir.Value
    multiples: dict[ir.Value, float]
    scale: float
    ops: list[ir.Operation]


@dataclass(frozen=True)
class Site:
    rows: Rows
    exponentials: ir.Value
    forward: Forward
    gradient: Gradient | None

    @property
    def ops(self) -> set[ir.Operation]:
        """All that may be erased once the composites are there."""
        return {*self.forward.ops, *(() if self.gradient is None else self.gradient.ops)}


def match_softmax(exponential: ir.Operation) -> Site | None:
    """The softmax, or its logarithm, that is made of `exponential`; None where there is none.

    Raises: NoMatch if there is one that cannot be taken out.
    """
    rows = rows_of(exponential)
    if rows is None:
        return None
    region = downstream(exponential, rows.reader.dim)
    found = list(_results(rows, region))
    if not found:
        return None
    rows.refuse(exponential, "softmax", "jax.nn.softmax")
    if rows.guarded:
        raise NoMatch(
            exponential,
            "the softmax guards against an infinite maximum: a row with +inf is not NaN everywhere",
            "use jax.nn.softmax or jax.nn.log_softmax",
        )
    failure: NoMatch | None = None
    for value, log in found:
        try:
            return _site(rows, exponential.results[0], region, value, log)
        except NoMatch as miss:
            failure = failure or miss
    assert failure is not None
    raise failure


def _results(rows: Rows, region: Region) -> Iterator[tuple[ir.Value, bool]]:
    """Values that are the softmax (False) or its logarithm (True), the first of each."""
    for log in (True, False):
        wanted = result(rows.reader, log)
        for value in region.wide:
            if _read(rows, value) == wanted:
                yield value, log
                break


def _read(rows: Rows, value: ir.Value) -> Polynomial | None:
    try:
        return rows.reader.resolved(rows.reader.read(value, rows.reader.view))
    except NotPolynomial:
        return None


def _site(rows: Rows, exponentials: ir.Value, region: Region, value: ir.Value, log: bool) -> Site:
    gradient = _gradient(rows, exponentials, region, value, log)
    value = _rounded(value)
    x, scale = _unscaled(rows.reader.logits)
    forward = Forward(value, log, x, scale, _forward_ops(value, x))
    site = Site(rows, exponentials, forward, gradient)
    computed = [op.results[0] for op in site.ops if op.name != "stablehlo.broadcast_in_dim"]
    wide = [value for value in computed if shape(value) == shape(rows.reader.logits)]
    own = [value for value in wide if value != rows.reader.logits and not _is_before(rows, value)]
    ends = {value, *(() if gradient is None else (gradient.value,))}
    user = survivor(own, site.ops, ends)
    if user is not None:
        raise NoMatch(
            user,
            f"what {'log-softmax' if log else 'softmax'} computes on the way is used by something else, too",
            "use its result there",
        )
    return site


def _is_before(rows: Rows, value: ir.Value) -> bool:
    """Whether `value` is made of the logits before their softmax: scaled, or of another type."""
    return _read(rows, value) == rows.reader.resolved(rows.reader.x)


def _forward_ops(value: ir.Value, x: ir.Value) -> list[ir.Operation]:
    block = producer(value).block

    def enter(_: ir.Value, op: ir.Operation | None) -> bool:
        if op is None or (op.block != block and op.name not in EXACT_OPS):
            raise NoMatch(producer(value), "the softmax depends on more than its logits")
        return op.name != "stablehlo.constant"

    return cone([value], {x}, enter)


def _rounded(value: ir.Value) -> ir.Value:
    """`value` in the type in which it is used."""
    following = users(value)
    return following[0].results[0] if len(following) == 1 and is_float_convert(following[0]) else value


def _unscaled(logits: ir.Value) -> tuple[ir.Value, float]:
    """What the logits are a multiple of, if a number multiplies or divides it in float32."""
    for name in ("stablehlo.multiply", "stablehlo.divide"):
        op = defined_by(logits, name)
        number = None if op is None else splat(op.operands[1])
        wide = str(element_type(logits)) == "f32"
        if op is not None and number and wide and len({*users(logits)}) <= 2:
            factor = float(number) if name.endswith("multiply") else 1 / float(number)
            return unrounded(op.operands[0]), factor
    return logits, 1.0


def _gradient(rows: Rows, exponentials: ir.Value, region: Region, y: ir.Value, log: bool) -> Gradient | None:
    for value in region.wide:
        polynomial = _read(rows, value)
        dy = None if polynomial is None else cotangent(rows.reader, polynomial, log)
        found = None if dy is None else _cut(rows, exponentials, value, dy, y)
        if found is not None:
            rounded = _rounded(value)
            return found if rounded == value else replace(found, value=rounded, ops=[*found.ops, producer(rounded)])
    return None


def _cut(rows: Rows, exponentials: ir.Value, value: ir.Value, dy: Polynomial, y: ir.Value) -> Gradient | None:
    """The operations from dy, y, the exponentials and their sum to the gradient `value`; None if it takes more."""
    leaves: dict[ir.Value, float] = {}
    block = producer(value).block
    inside = True

    def enter(current: ir.Value, op: ir.Operation | None) -> bool:
        nonlocal inside
        if shape(current) == shape(value) and is_float(element_type(current)):
            polynomial = _read(rows, current)
            factor = None if polynomial is None else polynomial.ratio_to(rows.reader.resolved(dy))
            if factor is not None and splat(current) is None:
                leaves[current] = factor
                return False
        inside = inside and op is not None and (op.block == block or op.name in EXACT_OPS)
        return inside and op is not None and op.name != "stablehlo.constant"

    ops = cone([value], {y, exponentials, rows.total}, enter)
    if not inside or not leaves:
        return None
    own = min(leaves, key=lambda leaf: leaves[leaf] != 1)
    multiples = {leaf: factor / leaves[own] for leaf, factor in leaves.items() if leaf != own}
    return Gradient(value, own, multiples, 1 / leaves[own], ops)
