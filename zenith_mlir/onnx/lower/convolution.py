"""stablehlo.convolution: Conv where onnxruntime has it, ConvTranspose for holes between elements, else a product."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import onnx_ir as oir
from jaxlib.mlir import ir
from jaxlib.mlir.dialects import stablehlo

from zenith_mlir.ir.facts import shape
from zenith_mlir.onnx.arrange import in_order, stored_view
from zenith_mlir.onnx.builder import Builder
from zenith_mlir.onnx.convert import Lowering, Walk, onnx_type
from zenith_mlir.onnx.lower.shape import pad_axes
from zenith_mlir.onnx.lower.window import Window, padded, patches, window_attributes, windows
from zenith_mlir.onnx.view import View

__all__ = ["CONVOLUTION"]

_D = oir.DataType
_BYTES = (_D.INT8, _D.UINT8)


@dataclass(frozen=True)
class _Conv:
    """x: (batch, features, ...), kernel: (outputs, features of one group, ...) -> (batch, outputs, ...) of `dims`."""

    builder: Builder
    x: oir.Value
    kernel: oir.Value
    windows: list[Window]
    flipped: list[int]
    groups: int
    dims: tuple[int, ...]
    dtype: oir.DataType

    @property
    def of_bytes(self) -> bool:
        """Bytes accumulated in int32."""
        return self.x.dtype != self.dtype

    @property
    def axes(self) -> range:
        return range(2, 2 + len(self.windows))


def _convolution(walk: Walk, op: ir.Operation) -> Sequence[View]:
    """The result stays stored with the features behind the batch, whatever order the program has."""
    builder, dtype = walk.builder, onnx_type(op.results[0])
    numbers = stablehlo.ConvDimensionNumbers(op.attributes["dimension_numbers"])
    left, right = (walk.view(value) for value in op.operands)
    if not (left.dtype in _BYTES and right.dtype in _BYTES and dtype == _D.INT32):
        left, right = (view.with_value(builder.cast(view.value, dtype)) for view in (left, right))
    spatial = list(numbers.kernel_spatial_dimensions)
    x = _in_order(
        builder,
        left,
        [numbers.input_batch_dimension, numbers.input_feature_dimension, *numbers.input_spatial_dimensions],
    )
    columns = [numbers.kernel_output_feature_dimension, numbers.kernel_input_feature_dimension]
    kernel = _in_order(builder, right, [*columns, *spatial])
    out = [numbers.output_batch_dimension, numbers.output_feature_dimension, *numbers.output_spatial_dimensions]
    dims = shape(op.results[0])
    groups, batches = (ir.IntegerAttr(op.attributes[f"{n}_group_count"]).value for n in ("feature", "batch"))
    conv = _Conv(
        builder,
        _batches_as_features(builder, x, batches),
        kernel,
        windows(op, [right.shape[d] for d in spatial], "lhs_dilation", "rhs_dilation"),
        _reversed(op),
        groups * batches,
        tuple(dims[d] for d in out),
        dtype,
    )
    return [_lower(conv).transposed([out.index(d) for d in range(len(dims))])]


def _lower(conv: _Conv) -> View:
    if not conv.windows or not (conv.of_bytes or conv.dtype in (_D.FLOAT, _D.FLOAT16, _D.BFLOAT16)):
        return _product(conv)
    holes = any(window.base != 1 for window in conv.windows)
    moves = any(window.stride != 1 for window in conv.windows)
    result = _transposed(conv) if holes and not moves and not conv.of_bytes else _conv(conv)
    return View.of(result, conv.dims)


def _in_order(builder: Builder, view: View, order: Sequence[int]) -> oir.Value:
    return in_order(builder, stored_view(builder, view, order), order)


def _reversed(op: ir.Operation) -> list[int]:
    """Axes of the kernel along which it is read backwards."""
    if "window_reversal" not in op.attributes:
        return []
    return [2 + i for i, flag in enumerate(ir.DenseBoolArrayAttr(op.attributes["window_reversal"])) if flag]


def _batches_as_features(builder: Builder, x: oir.Value, groups: int) -> oir.Value:
    """Output group g sees only part g of the batch: the parts become groups of features."""
    if groups == 1:
        return x
    batch, features, *rest = builder.shape(x)
    split = builder.transpose(
        builder.reshape(x, [groups, batch // groups, features, *rest]), [1, 0, 2, *range(3, 3 + len(rest))]
    )
    return builder.reshape(split, [batch // groups, groups * features, *rest])


def _conv(conv: _Conv) -> oir.Value:
    builder = conv.builder
    assert conv.x.dtype is not None
    zero = builder.scalar(0, conv.x.dtype)
    x, left = padded(builder, conv.x, conv.axes, conv.windows, zero, narrow=False)
    kernel = builder.reverse(conv.kernel, conv.flipped)
    attributes = {**window_attributes(builder, left), "group": conv.groups if conv.groups != 1 else None}
    if conv.of_bytes:
        return builder.nodes("ConvInteger", [x, kernel], [(_D.INT32, conv.dims)], **attributes)[0]
    return builder.op("Conv", x, kernel, shape=conv.dims, **attributes)


def _transposed(conv: _Conv) -> oir.Value:
    """ConvTranspose spreads each element times the kernel, which it has the other way round and by its inputs. What
    lies outside of the reach of all elements is 0.
    """
    builder, axes = conv.builder, conv.axes
    window_attributes(builder, conv.windows)  # refuses symbolic numbers, of which others are made below
    kernel = builder.reverse(conv.kernel, [axis for axis in axes if axis not in conv.flipped])
    outputs, features, *sizes = builder.shape(kernel)
    by_group = builder.reshape(kernel, [conv.groups, outputs // conv.groups, features, *sizes])
    turned = builder.transpose(by_group, [0, 2, 1, *range(3, 3 + len(sizes))])
    kernel = builder.reshape(turned, [conv.groups * features, outputs // conv.groups, *sizes])
    left, inside, outside = zip(*(_spreading(window) for window in conv.windows), strict=True)
    spatial = [size - sum(zeros) for size, zeros in zip(conv.dims[2:], outside, strict=True)]
    result = builder.op(
        "ConvTranspose",
        conv.x,
        kernel,
        shape=[*conv.dims[:2], *spatial],
        **window_attributes(builder, left),
        group=conv.groups if conv.groups != 1 else None,
        output_padding=inside if any(inside) else None,
    )
    return pad_axes(builder, result, axes, outside, builder.scalar(0, conv.dtype))


def _spreading(window: Window) -> tuple[Window, int, tuple[int, int]]:
    """ConvTranspose's window, which steps over the result and whose padding is what it cuts off from that; zeros that
    it adds at the end, fewer than a step; zeros to be added around it.
    """
    low, high = window.span - 1 - window.low, window.span - 1 - window.high
    inside = -high if 0 < -high < window.base else 0
    spread = Window(window.size, window.base, max(low, 0), max(high, 0), 1, window.dilation)
    return spread, inside, (max(-low, 0), max(-high, 0) - inside)


def _product(conv: _Conv) -> View:
    """The elements of every window times the kernel, for types that Conv lacks: float64 and wide integers."""
    builder, count = conv.builder, len(conv.windows)
    found, places = patches(builder, conv.x, conv.axes, conv.windows, builder.scalar(0, conv.dtype))
    kernel = builder.reverse(conv.kernel, conv.flipped)
    outputs, features, *sizes = builder.shape(kernel)
    inner = features * math.prod(sizes)
    batch, spatial = conv.dims[0], list(conv.dims[2:])
    rows = builder.transpose(found, [0, *(place - 1 for place in places), 1, *places])
    kernel = builder.reshape(kernel, [conv.groups, outputs // conv.groups, inner])
    kernel = builder.transpose(kernel, [0, 2, 1])
    if conv.groups == 1:
        rows, kernel = builder.reshape(rows, [batch, *spatial, inner]), builder.reshape(kernel, [inner, outputs])
    else:
        split = [batch, *spatial, conv.groups, features, *sizes]
        rows = builder.reshape(builder.reshape(rows, split), [batch, *spatial, conv.groups, 1, inner])
    lead = list(builder.shape(rows)[:-1])
    product = builder.op("MatMul", rows, kernel, shape=[*lead, outputs // conv.groups])
    last = [batch, *spatial, outputs]
    return View.of(builder.reshape(product, last), last).transposed([0, count + 1, *range(1, count + 1)])


CONVOLUTION: dict[str, Lowering] = {"stablehlo.convolution": _convolution}
