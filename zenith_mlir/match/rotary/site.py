"""A rotation in the program: where it may end, which operations belong to it, and what the composite says of it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from jaxlib.mlir import ir

from zenith_mlir.dialects.layout import Layout
from zenith_mlir.dialects.rotary import RotarySpec
from zenith_mlir.ir.cones import cone
from zenith_mlir.ir.facts import (
    defined_by,
    defining_op,
    element_type,
    has_static_shape,
    is_float,
    is_float_convert,
    shape,
    users,
)
from zenith_mlir.match.axes import Axis
from zenith_mlir.match.constants import evaluate
from zenith_mlir.match.rotary.reader import Reader, Unreadable, peeled
from zenith_mlir.match.rotary.rotation import NoRotation, Rotation, find_rotations
from zenith_mlir.match.rotary.signs import is_signs
from zenith_mlir.match.rotary.standins import Made, StandIn, emit, join
from zenith_mlir.match.rotary.views import FEATURES, View, features_of

_WRITES = ("stablehlo.concatenate", "stablehlo.scatter", "stablehlo.dynamic_update_slice")
ANCHORS = (*_WRITES, "stablehlo.add", "stablehlo.subtract")
_MAX_FEATURES = 4096


@dataclass(frozen=True)
class Site:
    """What is replaced by one composite: `ops` in program order, the last of which computes `result`."""

    spec: RotarySpec
    x: StandIn
    tables: StandIn | tuple[ir.Value, ir.Value]
    ops: list[ir.Operation]
    result: ir.Value
    rows: int
    transposed: bool

    def prepare(self, made: Made) -> tuple[list[ir.Value], list[ir.Operation], ir.Value]:
        """The operands of the composite, all its operations and its result, made where they are missing."""
        operands, ops = emit(self.x, self.ops, made)
        tables, ops = emit(self.tables, ops, made) if isinstance(self.tables, StandIn) else (list(self.tables), ops)
        joined = join(self.result, self.rows)
        return [*operands, *tables], [*ops, *joined], joined[0].results[0] if joined else self.result


def match_rotary(anchor: ir.Operation) -> list[Site]:
    """The rotation whose halves `anchor` brings together, in all ways to say it, best first; none if there is none.

    Raises: NoRotation if it resembles one and is none.
    """
    if not _may_join(anchor):
        return []
    failure: NoRotation | None = None
    for result, rows in _results(anchor):
        try:
            sites = _match(result, rows)
        except NoRotation as miss:
            failure = miss
            continue
        if sites:
            return sites
    if failure is not None:
        raise failure
    return []


def _match(result: ir.Value, rows: int) -> list[Site]:
    try:
        reader = Reader(result, rows)
    except Unreadable:
        return []
    try:
        return _sites(reader)
    except NoRotation as miss:
        miss.ops = reader.ops
        raise


def _sites(reader: Reader) -> list[Site]:
    rotations = list(find_rotations(reader))
    sites = []
    for rotation in rotations:
        ops = _region(reader, rotation)
        if ops is not None:
            tables = (rotation.cos.value, rotation.sin.value)
            sites.append(
                Site(
                    spec=_spec(reader, rotation),
                    x=StandIn(rotation.x.value, features_of(rotation.x.view)),
                    tables=StandIn(tables[0], ()) if tables[0] == tables[1] else tables,
                    ops=ops,
                    result=reader.result,
                    rows=len(features_of(reader.view)),
                    transposed=rotation.transposed,
                )
            )
    if rotations and not sites:
        raise NoRotation("halves and tables are taken from values of different types or layouts, so there is no one x")
    return sites


def _may_join(op: ir.Operation) -> bool:
    """A cheap look at what `op` joins: most sums and concatenations are nothing like a rotation."""
    result = op.results[0]
    if not has_static_shape(result) or not is_float(element_type(result)) or not shape(result):
        return False
    if not 1 < shape(result)[-1] <= _MAX_FEATURES:
        return False
    if op.name in _WRITES:
        return any(_is_sum(operand) for operand in op.operands)
    if any(_is_padded(operand) for operand in op.operands):
        return True
    terms = [term for operand in op.operands if (term := peeled(operand)) is not None]
    moving = [_is_moving(term) for term in terms]
    if len(terms) != 2 or not all(
        m or term.name == "stablehlo.multiply" for m, term in zip(moving, terms, strict=True)
    ):
        return False
    return any(moving) or any(_is_moved(factor) for term in terms for factor in term.operands)


def _is_sum(value: ir.Value, depth: int = 2) -> bool:
    op = peeled(value)
    if op is not None and op.name in _WRITES:
        return depth > 0 and any(_is_sum(operand, depth - 1) for operand in op.operands)
    return op is not None and op.name in ("stablehlo.add", "stablehlo.subtract", "stablehlo.real", "stablehlo.imag")


def _is_padded(value: ir.Value, depth: int = 3) -> bool:
    op = defining_op(value)
    while op is not None and op.name in ("stablehlo.convert", "stablehlo.negate", "stablehlo.reshape"):
        op = defining_op(op.operands[0])
    if op is None:
        return False
    if op.name in ("stablehlo.add", "stablehlo.subtract"):
        return depth > 0 and any(_is_padded(operand, depth - 1) for operand in op.operands)
    return op.name == "stablehlo.pad"


def _is_moved(value: ir.Value) -> bool:
    op = peeled(value)
    while op is not None and op.name == "stablehlo.multiply" and is_signs(op.operands[1]):
        op = peeled(op.operands[0])
    return op is not None and _is_moving(op)


def _is_moving(op: ir.Operation) -> bool:
    """Whether `op` may change the order of features."""
    if op.name == "stablehlo.dot_general":
        return any(defined_by(operand, "stablehlo.constant") is not None for operand in op.operands)
    return op.name in _MOVING


_MOVING = frozenset(
    f"stablehlo.{name}" for name in ("concatenate", "slice", "reverse", "gather", "scatter", "select", "dynamic_slice")
)


def _results(anchor: ir.Operation) -> list[tuple[ir.Value, int]]:
    """Where a rotation that `anchor` brings together may end, and in how many dimensions its features are; best first:
    the last dimension, but pairs only together with the dimension that counts them.
    """
    values = list(reversed(list(_followers(anchor))))
    rows = [(value, 1) for value in values if shape(value)[-1] > 2]
    pairs = [(value, 2) for value in values if len(shape(value)) > 1 and 2 in shape(value)[-2:]]
    return [*rows, *pairs, *((value, 1) for value in values if shape(value)[-1] == 2)]


def _followers(anchor: ir.Operation) -> Iterator[ir.Value]:
    """What `anchor` computes, and what a reshape that puts the pairs in one row and a rounding make of it."""
    value: ir.Value = anchor.results[0]
    yield value
    while len(list(value.uses)) == 1:
        (user,) = users(value)
        if not (is_float_convert(user) or _joins_rows(user)):
            return
        value = user.results[0]
        yield value


def _joins_rows(op: ir.Operation) -> bool:
    """Whether `op` is a reshape that puts the last dimensions in one."""
    if op.name != "stablehlo.reshape":
        return False
    before, after = shape(op.operands[0]), shape(op.results[0])
    return len(after) < len(before) and before[: len(after) - 1] == after[:-1]


class _Open(Exception):
    """The region reads something that is no operand."""


def _region(reader: Reader, rotation: Rotation) -> list[ir.Operation] | None:
    """The operations between the operands and the result; None if they read anything else."""
    stops = {rotation.x.value, rotation.cos.value, rotation.sin.value}

    def enter(value: ir.Value, op: ir.Operation | None) -> bool:
        if op is not None and op.name == "stablehlo.constant":
            return False
        if op is None or (op not in reader.ops and evaluate(value) is None):
            raise _Open
        return True

    try:
        return cone([reader.result], stops, enter)
    except _Open:
        return None


def _spec(reader: Reader, rotation: Rotation) -> RotarySpec:
    names = _names(reader, rotation)
    size = {name: reader.space.size(axis) for axis, name in names.items()}
    features, columns = reader.features, shape(rotation.cos.value)[-1]
    x, out = (_layout(reader, view, names, "d") for view in (rotation.x.view, reader.view))
    if rotation.transposed:
        x, out = out, x
    return RotarySpec(
        axes={**size, "d": features, "r": columns},
        x=x,
        out=None if out == x else out,
        table=_layout(reader, rotation.cos.view, names, "r"),
        rotated=rotation.rotated,
        pairing=rotation.pairing,
    )


def _layout(reader: Reader, view: View, names: dict[Axis, str], last: str) -> Layout:
    dims = [tuple(names[axis] for axis in dim) for dim in reader.resolved(view) if dim is not FEATURES]
    return Layout((*dims, (last,)))


def _names(reader: Reader, rotation: Rotation) -> dict[Axis, str]:
    """Letters for the axes of x: t for the positions (the last axis of the tables), b for the first of the rest, h for
    the second.
    """
    axes = [axis for dim in reader.resolved(reader.view) if dim is not FEATURES for axis in dim]
    table = [axis for dim in reader.resolved(rotation.cos.view) if dim is not FEATURES for axis in dim]
    names = {table[-1]: "t"} if table else {}
    letters = iter("bhgcijklmnopqsuvwxyz" if len(axes) - len(names) > 1 else "h")
    return names | {axis: next(letters) for axis in axes if axis not in names}
