"""Exponentials of rows of logits, from which losses and softmaxes are reached."""

from __future__ import annotations

import math
from dataclasses import dataclass

from jaxlib.mlir import ir

from zenith_mlir.ir.facts import element_type, float_width, int_list, reduction, shape
from zenith_mlir.match.algebra.polynomial import NotPolynomial, Polynomial
from zenith_mlir.match.attention.normaliser import row_sums
from zenith_mlir.match.attention.shifts import strip_shifts
from zenith_mlir.match.axes import AxisSpace, View
from zenith_mlir.match.chains import through_converts
from zenith_mlir.match.cross_entropy.reader import CrossEntropyReader
from zenith_mlir.match.nomatch import NoMatch


@dataclass(frozen=True)
class Rows:
    """The exponentials of rows of logits, their `maximum` m and the `total` Σ exp(x - m)."""

    maximum: ir.Value | None
    total: ir.Value
    guarded: bool
    reader: CrossEntropyReader

    @property
    def dims(self) -> tuple[int, ...]:
        """The shape of one number a row."""
        return self.reader.row_dims

    def refuse(self, exponential: ir.Operation, what: str, instead: str) -> None:
        """Raises: NoMatch if no kernel computes rows so; `what` was found, and `instead` is the cure."""
        if self.maximum is None:
            raise NoMatch(
                exponential,
                f"the exponentials of the {what} are summed without subtracting the row maximum first",
                f"use {instead}, which cannot overflow",
            )
        if self.reader.dim != len(self.dims):
            raise NoMatch(
                exponential,
                f"the {what} runs over dimension {self.reader.dim} of {len(self.dims) + 1}, and kernels over the last",
                "move it to the last dimension",
            )


def rows_of(exponential: ir.Operation) -> Rows | None:
    """None where no row of several exponentials is summed."""
    row_sum = next((row_sum for row_sum in row_sums(exponential) if row_sum.mask is None), None)
    extent = shape(exponential.results[0])
    dims = [] if row_sum is None else int_list(row_sum.total, "dimensions")
    if row_sum is None or len(dims) != 1 or extent[dims[0]] == 1:
        return None
    space = AxisSpace()
    view = space.fresh_view(extent)
    (column,) = view[dims[0]]
    space.keep_whole([column])
    try:
        shifted = strip_shifts(space, exponential, view, column, at_most=1)
    except NoMatch:
        logits, maximum, guarded = exponential.operands[0], None, False
    else:
        logits, guarded = shifted.logits, shifted.guarded
        maximum = next(op.results[0] for op in shifted.ops if reduction(op) == "stablehlo.maximum")
    reader = CrossEntropyReader(space, unrounded(logits), view, column, shifted=maximum is not None)
    return Rows(maximum, row_sum.total.results[0], guarded, reader)


def unrounded(logits: ir.Value) -> ir.Value:
    """What the logits were before they became float32."""
    source = through_converts(logits)
    return source if float_width(element_type(source)) == 16 else logits


def polynomial_of(reader: CrossEntropyReader, value: ir.Value) -> Polynomial | None:
    view = view_of(reader, value)
    try:
        return None if view is None else reader.read(value, view)
    except NotPolynomial:
        return None


def view_of(reader: CrossEntropyReader, value: ir.Value) -> View | None:
    """What the dimensions of a value with the extent of the logits, or with one number a row, run over."""
    if shape(value) == shape(reader.logits):
        return reader.space.resolve_view(reader.view)
    if math.prod(shape(value)) != math.prod(reader.row_dims):
        return None
    return reader.space.regroup(reader.space.resolve_view(reader.rows), shape(value))
