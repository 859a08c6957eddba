"""Activation functions by name, as zenith_mlir/dialects/activations.py defines them."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import onnx_ir as oir

from zenith_mlir.onnx.arrange import elementwise
from zenith_mlir.onnx.convert import Walk
from zenith_mlir.onnx.fused.operands import operator
from zenith_mlir.onnx.lower.special import Expression
from zenith_mlir.onnx.view import View

__all__ = ["ACTIVATIONS", "activated", "biased"]


def activated(walk: Walk, name: str, slope: float, x: View) -> View:
    """The activation of x, in the type of x."""
    return ACTIVATIONS[name](walk, x, slope)


def biased(walk: Walk, x: View, bias: View) -> View:
    """x + bias, the bias along the last dimension."""
    return elementwise(walk.builder, "Add", x, bias.broadcast(x.shape, [x.rank - 1]))


def _node(walk: Walk, op_type: str, x: View, domain: str = "", **options: Any) -> View:
    shape = walk.builder.shape(x.value)
    return x.with_value(operator(walk.builder, op_type, x.value, shape=shape, domain=domain, **options))


def _gelu(walk: Walk, x: View, slope: float) -> View:
    """Before Gelu-20 as onnxruntime's GeluFusion expects it."""
    if walk.builder.opset >= 20:
        return _node(walk, "Gelu", x)
    e = Expression(walk, x)
    return (e * ((e / math.sqrt(2)).call("Erf") + 1.0) * 0.5).view


def _gelu_tanh(walk: Walk, x: View, slope: float) -> View:
    """Gelu-20; where it is lacking x σ(2 y) = x (1 + tanh y) / 2, which has fewer operations and loses no digits."""
    if walk.builder.opset >= 20 and x.dtype != oir.DataType.DOUBLE:
        return _node(walk, "Gelu", x, approximate="tanh")
    if walk.builder.microsoft and x.dtype == oir.DataType.FLOAT:
        return _node(walk, "FastGelu", x, "com.microsoft")
    e, factor = Expression(walk, x), 2 * math.sqrt(2 / math.pi)
    return (e * (e * (e * e * (0.044715 * factor) + factor)).call("Sigmoid")).view


def _silu(walk: Walk, x: View, slope: float) -> View:
    """x σ(slope x), which onnxruntime's optimiser fuses; its CPU has no kernel for Swish."""
    if walk.builder.fused == "always" and walk.builder.opset >= 24:
        return _node(walk, "Swish", x, alpha=slope)
    return elementwise(walk.builder, "Mul", x, _sigmoid(walk, x, slope))


def _sigmoid(walk: Walk, x: View, slope: float) -> View:
    e = Expression(walk, x)
    return (e if slope == 1 else e * slope).call("Sigmoid").view


def _relu(walk: Walk, x: View, slope: float) -> View:
    return _node(walk, "Relu", x)


ACTIVATIONS: dict[str, Callable[[Walk, View, float], View]] = {
    "gelu": _gelu,
    "gelu_tanh": _gelu_tanh,
    "silu": _silu,
    "sigmoid": _sigmoid,
    "relu": _relu,
}
