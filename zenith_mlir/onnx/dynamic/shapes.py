"""The shape that each operation gives its results, in expressions: StableHLO's rules of inference.

Written from https://openxla.org/stablehlo/spec. A rule takes the reader (shapes and numbers of operands, equations) and
the operation, and returns one shape for each result. Operations whose results have the shape of an operand are named in
a set.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from jaxlib.mlir import ir
from jaxlib.mlir.dialects import stablehlo

from zenith_mlir.errors import ZenithError
from zenith_mlir.ir.facts import int_list
from zenith_mlir.onnx.dynamic.expr import Expr, floordiv

if TYPE_CHECKING:
    from zenith_mlir.onnx.dynamic.reader import Reader

__all__ = ["ELEMENTWISE", "RULES", "Shape", "Window", "convolved", "gathered", "integer", "windowed"]

Shape = tuple[Expr, ...]
Rule = Callable[["Reader", ir.Operation], list[Shape]]

_ELEMENTWISE = (
    "abs add and atan2 cbrt ceil clamp compare complex convert cosine count_leading_zeros divide exponential "
    "exponential_minus_one floor imag is_finite log log_plus_one logistic map maximum minimum multiply negate not or "
    "popcnt power real reduce_precision remainder round_nearest_afz round_nearest_even rsqrt select shift_left "
    "shift_right_arithmetic shift_right_logical sign sine sqrt subtract tan tanh xor"
)
ELEMENTWISE = frozenset(_ELEMENTWISE.split())


class Window:
    """One dimension of a window: all of its numbers."""

    def __init__(self, size: Expr, stride: Expr, low: Expr, high: Expr, base: Expr, dilation: Expr) -> None:
        self.size, self.stride, self.low, self.high, self.base, self.dilation = size, stride, low, high, base, dilation

    def places(self, size: Expr) -> Expr:
        """How many places the window takes along a dimension of `size`."""
        padded = (size - 1) * self.base + 1 + self.low + self.high
        return floordiv(padded - (self.size - 1) * self.dilation - 1, self.stride) + 1


def integer(op: ir.Operation, name: str) -> int:
    return int(ir.IntegerAttr(op.attributes[name]).value)


def windowed(shape: Shape, windows: Sequence[Window]) -> Shape:
    return tuple(window.places(size) for size, window in zip(shape, windows, strict=True))


def convolved(op: ir.Operation, image: Shape, kernel: Shape, padding: Sequence[Sequence[Expr]]) -> Shape:
    """Of stablehlo.convolution and dynamic_conv."""
    dims = stablehlo.ConvDimensionNumbers(op.attributes["dimension_numbers"])
    rank = len(dims.input_spatial_dimensions)
    strides, bases, dilations = (
        [Expr.number(each) for each in int_list(op, name) or [1] * rank]
        for name in ("window_strides", "lhs_dilation", "rhs_dilation")
    )
    result: dict[int, Expr] = {
        dims.output_batch_dimension: floordiv(
            image[dims.input_batch_dimension], Expr.number(integer(op, "batch_group_count"))
        ),
        dims.output_feature_dimension: kernel[dims.kernel_output_feature_dimension],
    }
    for i, (out, of) in enumerate(zip(dims.output_spatial_dimensions, dims.input_spatial_dimensions, strict=True)):
        low, high = padding[i]
        window = Window(kernel[dims.kernel_spatial_dimensions[i]], strides[i], low, high, bases[i], dilations[i])
        result[out] = window.places(image[of])
    return tuple(result[d] for d in range(len(image)))


def gathered(op: ir.Operation, indices: Shape, slice_sizes: Shape) -> Shape:
    """Of stablehlo.gather and dynamic_gather."""
    dims = stablehlo.GatherDimensionNumbers(op.attributes["dimension_numbers"])
    batch = [size for d, size in enumerate(indices) if d != dims.index_vector_dim]
    gone = {*dims.collapsed_slice_dims, *dims.operand_batching_dims}
    offsets = [size for d, size in enumerate(slice_sizes) if d not in gone]
    rank = len(batch) + len(offsets)
    return tuple(offsets.pop(0) if d in dims.offset_dims else batch.pop(0) for d in range(rank))


def _padding(op: ir.Operation, rank: int) -> list[tuple[Expr, Expr]]:
    if "padding" not in op.attributes:
        return [(Expr.number(0), Expr.number(0))] * rank
    pairs = np.asarray(op.attributes["padding"]).reshape(rank, 2)
    return [(Expr.number(int(low)), Expr.number(int(high))) for low, high in pairs]


def _convolution(reader: Reader, op: ir.Operation) -> list[Shape]:
    image, kernel = (reader.shape(operand) for operand in op.operands)
    return [convolved(op, image, kernel, _padding(op, len(image) - 2))]


def _reduce_window(reader: Reader, op: ir.Operation) -> list[Shape]:
    inputs = list(op.operands)[: len(op.operands) // 2]
    rank = len(reader.shape(inputs[0]))
    sizes, strides, bases, dilations = (
        [Expr.number(each) for each in int_list(op, name) or [1] * rank]
        for name in ("window_dimensions", "window_strides", "base_dilations", "window_dilations")
    )
    windows = [Window(sizes[d], strides[d], *pads, bases[d], dilations[d]) for d, pads in enumerate(_padding(op, rank))]
    return [windowed(reader.shape(each), windows) for each in inputs]


def _pad(reader: Reader, op: ir.Operation) -> list[Shape]:
    names = ("edge_padding_low", "edge_padding_high", "interior_padding")
    lows, highs, inner = (int_list(op, name) for name in names)
    return [
        tuple(size + lows[d] + highs[d] + inner[d] * (size - 1) for d, size in enumerate(reader.shape(op.operands[0])))
    ]


def _concatenate(reader: Reader, op: ir.Operation) -> list[Shape]:
    along = integer(op, "dimension")
    shapes = [reader.shape(operand) for operand in op.operands]
    first = list(shapes[0])
    for other in shapes[1:]:
        for d, size in enumerate(other):
            if d == along:
                first[d] = first[d] + size
            else:
                reader.equate(first[d], size, op)
    return [tuple(first)]


def _transpose(reader: Reader, op: ir.Operation) -> list[Shape]:
    shape = reader.shape(op.operands[0])
    return [tuple(shape[d] for d in int_list(op, "permutation"))]


def _reduce(reader: Reader, op: ir.Operation) -> list[Shape]:
    gone = int_list(op, "dimensions")
    inputs = list(op.operands)[: len(op.operands) // 2]
    for other in inputs[1:]:
        reader.equate_shapes(reader.shape(inputs[0]), reader.shape(other), op)
    return [tuple(size for d, size in enumerate(reader.shape(each)) if d not in gone) for each in inputs]


def _dot_general(reader: Reader, op: ir.Operation) -> list[Shape]:
    dims = stablehlo.DotDimensionNumbers(op.attributes["dot_dimension_numbers"])
    a, b = (reader.shape(operand) for operand in op.operands)
    batch = list(zip(dims.lhs_batching_dimensions, dims.rhs_batching_dimensions, strict=True))
    summed = list(zip(dims.lhs_contracting_dimensions, dims.rhs_contracting_dimensions, strict=True))
    for i, j in batch + summed:
        reader.equate(a[i], b[j], op)
    taken_a, taken_b = ({pair[side] for pair in batch + summed} for side in (0, 1))
    rows = [size for d, size in enumerate(a) if d not in taken_a]
    columns = [size for d, size in enumerate(b) if d not in taken_b]
    return [(*(a[i] for i, _ in batch), *rows, *columns)]


def _dot(reader: Reader, op: ir.Operation) -> list[Shape]:
    a, b = (reader.shape(operand) for operand in op.operands)
    reader.equate(a[-1], b[0], op)
    return [(*a[:-1], *b[1:])]


def _gather(reader: Reader, op: ir.Operation) -> list[Shape]:
    sizes = tuple(Expr.number(size) for size in int_list(op, "slice_sizes"))
    return [gathered(op, reader.shape(op.operands[1]), sizes)]


def _top_k(reader: Reader, op: ir.Operation) -> list[Shape]:
    shape = (*reader.shape(op.operands[0])[:-1], Expr.number(integer(op, "k")))
    return [shape, shape]


def _custom_call(reader: Reader, op: ir.Operation) -> list[Shape]:
    """The last operands are the shapes of the results, where JAX wrote the call."""
    if "indices_of_shape_operands" not in op.attributes:
        raise ZenithError(f"{reader.place(op)} has a result of dynamic shape, and does not say which")
    return [reader.sizes(op.operands[int(i)], op) for i in np.asarray(op.attributes["indices_of_shape_operands"])]


def _like_each(reader: Reader, op: ir.Operation) -> list[Shape]:
    """Result i is like operand i."""
    return [reader.shape(operand) for operand, _ in zip(op.operands, op.results, strict=False)]


def _like(index: int) -> Rule:
    return lambda reader, op: [reader.shape(op.operands[index])]


def _like_all(reader: Reader, op: ir.Operation) -> list[Shape]:
    """Operands of the result's rank have its shape; those of rank 0 are for all elements (clamp, select)."""
    rank = ir.RankedTensorType(op.results[0].type).rank
    shapes = [shape for operand in op.operands if len(shape := reader.shape(operand)) == rank]
    for other in shapes[1:]:
        reader.equate_shapes(shapes[0], other, op)
    return [shapes[0]]


def _bitcast(reader: Reader, op: ir.Operation) -> list[Shape]:
    """Elements of another width add or take the last dimension, which is known."""
    known, operand = ir.RankedTensorType(op.results[0].type), reader.shape(op.operands[0])
    shape = operand[: known.rank]
    return [shape if len(shape) == known.rank else (*shape, Expr.number(known.get_dim_size(known.rank - 1)))]


def _fft(reader: Reader, op: ir.Operation) -> list[Shape]:
    """The last dimensions are known: an FFT has a static length."""
    known = ir.RankedTensorType(op.results[0].type)
    operand = reader.shape(op.operands[0])
    return [
        tuple(size if known.is_dynamic_dim(d) else Expr.number(known.get_dim_size(d)) for d, size in enumerate(operand))
    ]


RULES: Mapping[str, Rule] = {
    **{f"stablehlo.{name}": _like_all for name in ELEMENTWISE},
    "chlo.top_k": _top_k,
    "stablehlo.batch_norm_inference": _like(0),
    "stablehlo.bitcast_convert": _bitcast,
    "stablehlo.cholesky": _like(0),
    "stablehlo.concatenate": _concatenate,
    "stablehlo.convolution": _convolution,
    "stablehlo.custom_call": _custom_call,
    "stablehlo.dot": _dot,
    "stablehlo.dot_general": _dot_general,
    "stablehlo.dynamic_update_slice": _like(0),
    "stablehlo.fft": _fft,
    "stablehlo.gather": _gather,
    "stablehlo.optimization_barrier": _like_each,
    "stablehlo.pad": _pad,
    "stablehlo.reduce": _reduce,
    "stablehlo.reduce_window": _reduce_window,
    "stablehlo.reverse": _like(0),
    "stablehlo.scatter": _like_each,
    "stablehlo.select_and_scatter": _like(0),
    "stablehlo.sort": _like_each,
    "stablehlo.transpose": _transpose,
    "stablehlo.triangular_solve": _like(1),
}
