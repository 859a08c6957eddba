"""The static counterpart of each dynamic operation: its operands of sizes become attributes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import reduce
from typing import TYPE_CHECKING

import numpy as np
from jaxlib.mlir import ir
from jaxlib.mlir.dialects import stablehlo

from zenith_mlir.errors import ZenithError
from zenith_mlir.ir.facts import defined_by, int_list
from zenith_mlir.onnx.dynamic.expr import Expr, floordiv
from zenith_mlir.onnx.dynamic.numbers import Numbers
from zenith_mlir.onnx.dynamic.shapes import Shape, Window, convolved, gathered, windowed

if TYPE_CHECKING:
    from zenith_mlir.onnx.dynamic.reader import Reader

__all__ = ["COUNTERPARTS", "Counterpart", "Cut", "counterpart_name"]


@dataclass(frozen=True)
class Cut:
    """A symbolic size of a static dimension, in `tables.py`: which axis each element of the start, operand 1, is of."""

    axes: Sequence[int]
    sizes: Shape


@dataclass(frozen=True)
class Counterpart:
    """An operation `name` of static shape.

    `integers` are attributes of expressions: a scalar (i64), a vector (array<i64>) or a matrix (dense). `kept` are the
    attributes taken over as they are. `operands` are positions. The elements of the vector that is operand `starts`
    become one more operand each; `clamped` says that it is a clamp that the operation does itself. `called` names the
    function that becomes the region. With `cut` there is no one operation.
    """

    name: str
    operands: Sequence[int]
    shapes: list[Shape]
    integers: Mapping[str, Numbers] = field(default_factory=dict)
    kept: Sequence[str] = ()
    starts: int | None = None
    clamped: bool = False
    cut: Cut | None = None
    called: str | None = None


def counterpart_name(op: ir.Operation) -> str:
    """The name in `COUNTERPARTS`: of a custom call, its target."""
    if op.name == "stablehlo.custom_call":
        return str(ir.StringAttr(op.attributes["call_target_name"]).value)
    return op.name


def _vector(shape: Sequence[Expr]) -> Numbers:
    array = np.empty(len(shape), object)
    array[:] = shape
    return array


def _product(shape: Shape) -> Expr:
    return reduce(Expr.__mul__, shape, Expr.number(1))


def _broadcast(reader: Reader, op: ir.Operation) -> Counterpart:
    shape = reader.sizes(op.operands[1], op)
    for size, d in zip(reader.shape(op.operands[0]), int_list(op, "broadcast_dimensions"), strict=True):
        if size.constant != 1:
            reader.equate(size, shape[d], op)
    return Counterpart("stablehlo.broadcast_in_dim", [0], [shape], kept=["broadcast_dimensions"])


def _reshape(reader: Reader, op: ir.Operation) -> Counterpart:
    shape = reader.sizes(op.operands[1], op)
    reader.equate(_product(reader.shape(op.operands[0])), _product(shape), op)
    return Counterpart("stablehlo.reshape", [0], [shape])


def _iota(reader: Reader, op: ir.Operation) -> Counterpart:
    return Counterpart("stablehlo.iota", (), [reader.sizes(op.operands[0], op)], kept=["iota_dimension"])


def _gather(reader: Reader, op: ir.Operation) -> Counterpart:
    sizes = reader.sizes(op.operands[2], op)
    shape = gathered(op, reader.shape(op.operands[1]), sizes)
    kept = ["dimension_numbers", "indices_are_sorted"]
    dims = stablehlo.GatherDimensionNumbers(op.attributes["dimension_numbers"])
    if _exceeds(reader.shape(op.operands[0]), sizes):
        if dims.operand_batching_dims or dims.index_vector_dim or len(reader.shape(op.operands[1])) != 1:
            raise ZenithError(f"{reader.place(op)} takes slices of a symbolic size from several places of a static one")
        return Counterpart("", [0], [shape], cut=Cut(dims.start_index_map, sizes))
    return Counterpart("stablehlo.gather", [0, 1], [shape], {"slice_sizes": _vector(sizes)}, kept)


def _exceeds(shape: Shape, sizes: Shape) -> bool:
    """Whether a witness could be larger than the dimension that it is cut from."""
    return any(size.constant is not None and taken.constant is None for size, taken in zip(shape, sizes, strict=True))


def _pad(reader: Reader, op: ir.Operation) -> Counterpart:
    low, high, interior = (reader.sizes(operand, op) for operand in list(op.operands)[2:])
    shape = tuple(
        size + low[d] + high[d] + interior[d] * (size - 1) for d, size in enumerate(reader.shape(op.operands[0]))
    )
    names = ("edge_padding_low", "edge_padding_high", "interior_padding")
    integers = {name: _vector(each) for name, each in zip(names, (low, high, interior), strict=True)}
    return Counterpart("stablehlo.pad", [0, 1], [shape], integers)


_CONVOLUTION = (
    "window_strides", "lhs_dilation", "rhs_dilation", "window_reversal", "dimension_numbers", "feature_group_count",
    "batch_group_count", "precision_config",
)  # fmt: skip


def _convolution(reader: Reader, op: ir.Operation) -> Counterpart:
    image, kernel, padding = op.operands
    pads = reader.matrix(padding, op)
    shape = convolved(op, reader.shape(image), reader.shape(kernel), pads.tolist())
    return Counterpart("stablehlo.convolution", [0, 1], [shape], {"padding": pads}, _CONVOLUTION)


def _slice(reader: Reader, op: ir.Operation) -> Counterpart:
    """A slice where the start is known, else a dynamic_slice of known sizes, which JAX writes in this way too."""
    operand, start = list(op.operands)[:2]
    first, last, strides = (reader.numbers(each) for each in list(op.operands)[1:])
    shape = reader.shape(operand)
    sizes = tuple(reader.resolve(b - a) for a, b in zip(first, last, strict=True))
    unit = all(each.constant == 1 for each in strides)
    if unit and all(size.is_stated for size in sizes) and _exceeds(shape, sizes):
        return Counterpart("", [0], [sizes], cut=Cut(range(len(sizes)), sizes))
    if all(each.is_stated for each in [*first, *last, *strides]):
        result = tuple(floordiv(b - a + c - 1, c) for a, b, c in zip(first, last, strides, strict=True))
        names = ("start_indices", "limit_indices", "strides")
        return Counterpart("stablehlo.slice", [0], [result], dict(zip(names, (first, last, strides), strict=True)))
    if not unit or not all(size.is_stated for size in sizes):
        raise ZenithError(f"{reader.place(op)} slices to a size that depends on data")
    return Counterpart(
        "stablehlo.dynamic_slice",
        [0],
        [sizes],
        {"slice_sizes": _vector(sizes)},
        starts=1,
        clamped=_is_clamped(reader, start, shape, sizes),
    )


def _is_clamped(reader: Reader, start: ir.Value, shape: Shape, sizes: Shape) -> bool:
    """Whether `start` is clamped just as dynamic_slice clamps it."""
    clamp = defined_by(start, "stablehlo.clamp")
    if clamp is None:
        return False
    low, _, high = (reader.numbers(operand) for operand in clamp.operands)
    room = [reader.resolve(size - taken) for size, taken in zip(shape, sizes, strict=True)]
    return list(high) == room and all(each.constant == 0 for each in low)


def _reduce_window(reader: Reader, op: ir.Operation) -> Counterpart:
    operand = op.operands[0]
    sizes, strides, bases, dilations = (reader.sizes(each, op) for each in list(op.operands)[2:6])
    pads = reader.matrix(op.operands[6], op)
    windows = [Window(sizes[d], strides[d], pads[d, 0], pads[d, 1], bases[d], dilations[d]) for d in range(len(sizes))]
    vectors = {
        "window_dimensions": sizes, "window_strides": strides, "base_dilations": bases, "window_dilations": dilations
    }  # fmt: skip
    (called,) = ir.ArrayAttr(op.attributes["called_computations"])
    return Counterpart(
        "stablehlo.reduce_window",
        [0, 1],
        [windowed(reader.shape(operand), windows)],
        {**{name: _vector(each) for name, each in vectors.items()}, "padding": pads},
        called=str(ir.FlatSymbolRefAttr(called).value),
    )


def _top_k(reader: Reader, op: ir.Operation) -> Counterpart:
    operand, k = op.operands
    (size,) = reader.sizes(k, op)
    shape = (*reader.shape(operand)[:-1], size)
    return Counterpart("chlo.top_k", [0], [shape, shape], {"k": np.array(size, object)})


def _random_bits(reader: Reader, op: ir.Operation) -> Counterpart:
    state, shape = op.operands
    shapes = [reader.shape(state), reader.sizes(shape, op)]
    return Counterpart("stablehlo.rng_bit_generator", [0], shapes, kept=["rng_algorithm"])


COUNTERPARTS: Mapping[str, Callable[[Reader, ir.Operation], Counterpart]] = {
    "stablehlo.dynamic_broadcast_in_dim": _broadcast,
    "stablehlo.dynamic_conv": _convolution,
    "stablehlo.dynamic_gather": _gather,
    "stablehlo.dynamic_iota": _iota,
    "stablehlo.dynamic_pad": _pad,
    "stablehlo.dynamic_reduce_window": _reduce_window,
    "stablehlo.dynamic_reshape": _reshape,
    "stablehlo.dynamic_rng_bit_generator": _random_bits,
    "stablehlo.dynamic_top_k": _top_k,
    "stablehlo.real_dynamic_slice": _slice,
}
