"""Attributes of a composite, and its operands in the type in which an operator computes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import onnx_ir as oir
from jaxlib.mlir import ir

from zenith_mlir.dialects.attributes import from_attribute
from zenith_mlir.ir.composites import composite_attributes
from zenith_mlir.onnx.builder import Builder
from zenith_mlir.onnx.view import View

__all__ = ["attributes", "cast_view", "operator", "widened"]

_D = oir.DataType
NARROW = (_D.BFLOAT16, _D.FLOAT16)


def attributes(op: ir.Operation) -> dict[str, Any]:
    """The attributes of a composite as Python values."""
    values: dict[str, Any] = from_attribute(composite_attributes(op))
    return values


def cast_view(builder: Builder, view: View, dtype: oir.DataType) -> View:
    return view.with_value(builder.cast(view.value, dtype))


def widened(builder: Builder, *views: View) -> list[View]:
    """float16 and bfloat16 as float32, in which zenith ops compute and onnxruntime's CPU has its kernels; they stay
    where operators are wanted always.
    """
    if builder.fused == "always":
        return list(views)
    return [cast_view(builder, view, _D.FLOAT) if view.dtype in NARROW else view for view in views]


def operator(
    builder: Builder,
    op_type: str,
    *inputs: oir.Value | None,
    shape: Sequence[int],
    domain: str = "",
    **options: Any,
) -> oir.Value:
    """The result of one node, in the type of its first input: with a cast where onnxruntime's CPU needs one, and as it
    is where operators are wanted always.
    """
    first = inputs[0]
    assert first is not None and first.dtype is not None
    if domain:
        builder.domains[domain] = 1
    if builder.fused == "always" or domain:
        return builder.nodes(op_type, inputs, [(first.dtype, shape)], domain, **options)[0]
    return builder.op(op_type, *inputs, shape=shape, **options)
