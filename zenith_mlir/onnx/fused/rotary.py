"""zenith.rotary as RotaryEmbedding, whose tables have a column a pair.

Tables with a column a feature do where both features of a pair are known to have the same angle.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby

import numpy as np
import onnx_ir as oir
from jaxlib.mlir import ir

from zenith_mlir.dialects.rotary import RotarySpec
from zenith_mlir.ir.facts import defining_op, int_list, shape
from zenith_mlir.onnx.arrange import stored_view
from zenith_mlir.onnx.builder import Builder
from zenith_mlir.onnx.convert import Walk, onnx_type
from zenith_mlir.onnx.fused.layouts import arranged, laid_out
from zenith_mlir.onnx.fused.operands import attributes, cast_view, operator, widened
from zenith_mlir.onnx.lower.shape import slice_axes
from zenith_mlir.onnx.view import View

__all__ = ["rotary"]


def rotary(walk: Walk, op: ir.Operation) -> Sequence[View] | None:
    builder, spec = walk.builder, RotarySpec.from_attributes(attributes(op))
    views = [walk.view(value) for value in op.operands]
    form = _form(builder, spec, views[0])
    if builder.opset < 23 or not spec.rotated or form is None or views[0].dtype == oir.DataType.DOUBLE:
        return None
    pairs = spec.rotated // 2
    if spec.axes["r"] != pairs and not all(_one_angle_a_pair(walk, value, spec) for value in list(op.operands)[1:]):
        return None
    x, *tables = widened(builder, *views)
    if builder.fused != "always":  # operands of one type
        x, *tables = (cast_view(builder, view, oir.DataType.FLOAT) for view in (x, *tables))
    angles = [_table(builder, cast_view(builder, table, x.dtype), spec, form) for table in tables]
    groups = form.groups
    value = arranged(builder, x, spec.x, spec.axes, groups, whole=True)
    out = operator(
        builder,
        "RotaryEmbedding",
        value,
        *angles,
        shape=builder.shape(value),
        interleaved=int(spec.pairing == "interleaved"),
        num_heads=math.prod(spec.axes[axis] for axis in form.heads) if form.flat else None,
        rotary_embedding_dim=0 if spec.rotated == spec.axes["d"] else spec.rotated,
    )
    return [cast_view(builder, laid_out(builder, out, groups, spec.result, spec.axes), onnx_type(op.results[0]))]


@dataclass(frozen=True)
class _Form:
    """The axes of x as the operator has them: [batch, rows, heads * d] if flat, else [batch, heads, rows, d]. The
    tables run over batch and rows.
    """

    batch: tuple[str, ...]
    heads: tuple[str, ...]
    rows: tuple[str, ...]
    flat: bool

    @property
    def groups(self) -> list[list[str]]:
        if self.flat:
            return [list(self.batch), list(self.rows), [*self.heads, "d"]]
        return [list(self.batch), list(self.heads), list(self.rows), ["d"]]


def _form(builder: Builder, spec: RotarySpec, x: View) -> _Form | None:
    """That which moves no element of x, of which the heads or the rows are stored last."""
    stored = [axis for d in x.order for axis in spec.x.dims[d] if axis != "d"]
    shared = stored if len(stored) == len(spec.shared) else spec.shared
    runs = [(turned, tuple(run)) for turned, run in groupby(shared, lambda axis: axis in spec.table.axes)]
    flat = bool(runs) and not runs[-1][0]
    found = {turned: _last(runs, turned) for turned in ((False, True) if flat else (True, False))}
    rows, heads = found[True], found[False]
    if flat and any(builder.sizes.is_symbolic(spec.axes[axis]) for axis in heads):
        return None
    return _Form(tuple(axis for _, run in runs for axis in run), heads, rows, flat)


def _last(runs: list[tuple[bool, tuple[str, ...]]], turned: bool) -> tuple[str, ...]:
    """The last run of axes, taken away, if the tables run over them as they should."""
    return runs.pop()[1] if runs and runs[-1][0] == turned else ()


def _table(builder: Builder, view: View, spec: RotarySpec, form: _Form) -> oir.Value:
    """[batch, rows, pairs]."""
    pairs, last = spec.rotated // 2, view.rank - 1
    sizes = spec.axes
    if sizes["r"] != pairs:
        step = 2 if spec.pairing == "interleaved" else 1
        limits = [*view.shape[:last], step * (pairs - 1) + 1]
        view = slice_axes(builder, stored_view(builder, view, [last]), [0] * view.rank, limits, [1] * last + [step])
        sizes = {**sizes, "r": pairs}
    return arranged(builder, view, spec.table, sizes, [form.batch, form.rows, ["r"]], whole=True)


# ---- Whether both features of a pair have the same angle ----

_ELEMENTWISE = {
    f"stablehlo.{name}"
    for name in ("add", "convert", "cosine", "divide", "multiply", "negate", "sine", "subtract", "optimization_barrier")
}


def _one_angle_a_pair(walk: Walk, value: ir.Value, spec: RotarySpec) -> bool:
    known = walk.array(value)
    if known is not None:
        first, second = _pairs(known, spec)
        return bool(np.array_equal(first, second))
    return spec.pairing == "half" and _halves_repeat(walk, value)


def _pairs(table: np.ndarray, spec: RotarySpec) -> tuple[np.ndarray, np.ndarray]:
    pairs = spec.rotated // 2
    if spec.pairing == "half":
        return table[..., :pairs], table[..., pairs:]
    return table[..., ::2], table[..., 1::2]


def _halves_repeat(walk: Walk, value: ir.Value) -> bool:
    """Whether the halves of the last dimension are known to be the same: two times the same operand, concatenated, and
    what keeps that so.
    """
    op = defining_op(value)
    last = len(shape(value)) - 1
    known = walk.array(value) if value in walk.views else None
    if known is not None:
        half = known.shape[-1] // 2
        return bool(np.array_equal(known[..., :half], known[..., half:]))
    if op is None:
        return False
    if op.name in _ELEMENTWISE:
        return all(_halves_repeat(walk, operand) for operand in op.operands)
    if op.name == "stablehlo.concatenate":
        along = ir.IntegerAttr(op.attributes["dimension"]).value
        operands = list(op.operands)
        return len(operands) == 2 and along == last and operands[0] == operands[1]
    if op.name == "stablehlo.broadcast_in_dim":
        dims, own = int_list(op, "broadcast_dimensions"), shape(op.operands[0])
        repeated = last not in dims or own[list(dims).index(last)] == 1
        return repeated or (dims[-1] == last and _halves_repeat(walk, op.operands[0]))
    if op.name == "stablehlo.reshape":
        own = shape(op.operands[0])
        kept = bool(own) and own[-1] == shape(value)[-1]
        return kept and _halves_repeat(walk, op.operands[0])
    return False
