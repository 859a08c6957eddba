"""The residuals of an activation in a scan over layers: what its backward loop reads and could compute of x itself."""

from __future__ import annotations

from jaxlib.mlir import ir

from zenith_mlir.ir.facts import shape
from zenith_mlir.ir.loops import Loop
from zenith_mlir.ir.stacks import NotStacked, Row, loads, recompute, restack, stored
from zenith_mlir.match.activation.cone import Cone
from zenith_mlir.match.activation.elementwise import evaluator
from zenith_mlir.match.activation.piece import Piece
from zenith_mlir.match.activation.reading import Reading
from zenith_mlir.match.activation.site import find_reading


def recompute_stacked(loop: Loop, seed: ir.Operation) -> int:
    """Compute what `loop` stacks of the cone of x again where later loops read it. If x is not stacked, it takes the
    place of one of these. The activation itself stays stacked: what follows it in the backward needs no more.

    Returns: how many reads were replaced.
    """
    reading = find_reading(seed)
    if reading is None or not any(_is_deep(reading.cone, row) for row in _rows(loop, reading)):
        return 0
    known = next((row.source for row in stored(loop) if _is_root(reading, row.source)), None)
    root = known or _put_in(loop, reading)
    rows = [row for row in _rows(loop, reading) if row.source != root]
    count = int(root is not None and known is None)
    try:
        return count if root is None else count + recompute(loop, rows, _is_repeatable)
    except NotStacked:
        return count


def _is_repeatable(op: ir.Operation) -> bool:
    return op.name in ("stablehlo.broadcast_in_dim", "stablehlo.reshape") or evaluator(op) is not None


def _rows(loop: Loop, reading: Reading) -> list[Row]:
    """What the loop stacks of the cone for later loops, the activation left out."""
    inside = [row for row in stored(loop) if row.source in reading.cone.samples and row.source not in reading.values]
    return [row for row in inside if any(True for _ in loads(loop, row.carry))]


def _is_deep(cone: Cone, row: Row) -> bool:
    return cone.samples[row.source].deep > 0


def _is_root(reading: Reading, value: ir.Value) -> bool:
    """Whether `value` is x, in the type that it has or a wider one."""
    sample = reading.cone.samples.get(value)
    return sample is not None and sample.at is reading.cone.samples[reading.x].at


def _put_in(loop: Loop, reading: Reading) -> ir.Value | None:
    """Stack x where something made of it, of its type, was."""
    roots = [value for value in reading.cone.samples if _is_root(reading, value)]
    for row in _rows(loop, reading):
        for root in roots:
            piece = Piece.of([root], [row.source], loop.body) if root.type == row.source.type else None
            whole = shape(row.value) == (1, *shape(root))
            if piece is not None and whole and restack(loop, row, root, piece.ops):
                return root
    return None
