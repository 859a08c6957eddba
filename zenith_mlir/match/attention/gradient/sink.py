"""Attention sinks in gradients: one more term in the sum of a row, as a value of its own or as a column.

The sum of the exponentials alone is N - z, with z the exponential of the sink and N what is divided by: with N an
atom, the derivative has one term where it would be a quotient of sums. Where the sink is a column of the logits, an
expression of S + 1 columns is read twice, as its S main columns and as the one of the sink: a dimension of the joined
extent whose view is the softmax axis means the former, one whose view is empty the latter.
"""

from __future__ import annotations

from dataclasses import dataclass

from jaxlib.mlir import ir

from zenith_mlir.ir.facts import int_list, shape, splat
from zenith_mlir.match.attention.softmax import Softmax
from zenith_mlir.match.axes import View
from zenith_mlir.match.nomatch import NoMatch


@dataclass(frozen=True)
class Sink:
    """`weight` is z with its view. With `joined`, the logits' extent along dimension `dim`, the sink's column is at
    `position` of so many.
    """

    weight: ir.Value
    view: View
    dim: int
    joined: int = 0
    position: int = 0

    def slices(self, op: ir.Operation) -> str:
        """What `op` takes of something of joined extent: "main", "sink", or nothing."""
        if not self.joined or op.name != "stablehlo.slice" or shape(op.operands[0])[self.dim :][:1] != (self.joined,):
            return ""
        starts, limits = int_list(op, "start_indices"), int_list(op, "limit_indices")
        others = [i for i in range(len(starts)) if i != self.dim]
        if any((starts[i], limits[i]) != (0, shape(op.operands[0])[i]) for i in others):
            return ""
        bounds = (starts[self.dim], limits[self.dim])
        return {self._main: "main", (self.position, self.position + 1): "sink"}.get(bounds, "")

    def pads(self, op: ir.Operation) -> bool:
        """Whether `op` puts a zero where the sink's column is."""
        if not self.joined or op.name != "stablehlo.pad" or splat(op.operands[1]) != 0:
            return False
        low, high = int_list(op, "edge_padding_low"), int_list(op, "edge_padding_high")
        wanted = [(0, 0)] * len(low)
        wanted[self.dim : self.dim + 1] = [(int(self.position == 0), int(self.position != 0))]
        plain = not any(int_list(op, "interior_padding"))
        return plain and list(zip(low, high, strict=True)) == wanted and shape(op.results[0])[self.dim] == self.joined

    def is_joined(self, value: ir.Value) -> bool:
        return bool(self.joined) and shape(value)[self.dim :][:1] == (self.joined,)

    @property
    def _main(self) -> tuple[int, int]:
        return (1, self.joined) if self.position == 0 else (0, self.joined - 1)


def without_dim(view: View, dim: int) -> View:
    """`view` at one index of a dimension."""
    return tuple(() if i == dim else axes for i, axes in enumerate(view))


def weights(softmax: Softmax) -> list[ir.Value]:
    """Exponentials of the logits' extent, a sink's column included."""
    exponentials = [op.results[0] for op in softmax.ops if op.name == "stablehlo.exponential"]
    extents = [shape(softmax.logits)]
    join = _join(softmax)
    if join is not None:
        extents.append(shape(join.results[0]))
    return [value for value in exponentials if shape(value) in extents]


def sink_of(softmax: Softmax) -> Sink | None:
    """The sink of `softmax`, if it has one.

    Raises: NoMatch if its exponential is not found.
    """
    if softmax.sink is None:
        return None
    dim = softmax.view.index((softmax.axis,))
    join = _join(softmax)
    if join is not None:
        (weight,) = weights(softmax)[:1]
        extent = shape(join.results[0])[dim]
        position = 0 if join.operands[0] == softmax.sink else extent - 1
        return Sink(weight, without_dim(softmax.view, dim), dim, extent, position)
    for op in softmax.ops:
        shifted = op.operands[0].owner if op.name == "stablehlo.exponential" else None
        if isinstance(shifted, ir.OpView | ir.Operation) and softmax.sink in list(shifted.operation.operands):
            return Sink(op.results[0], softmax.sink_view, dim)
    raise NoMatch(softmax.ops[0], "the gradient of an attention with a sink of this form is not fused")


def _join(softmax: Softmax) -> ir.Operation | None:
    """The concatenation of logits and sink."""
    if softmax.sink is None:
        return None
    joins = (op for op in softmax.ops if op.name == "stablehlo.concatenate" and softmax.sink in list(op.operands))
    return next(joins, None)
