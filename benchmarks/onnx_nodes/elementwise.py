"""Operators on elements."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from onnx import helper

from onnx_nodes.meaning import Meaning

__all__ = ["ELEMENTWISE"]


def _plain(function: Callable[..., Any]) -> Meaning:
    return Meaning(lambda node, *xs: function(*xs))


def _together(function: Callable[..., Any]) -> Meaning:
    """Of operands brought to one shape."""
    return Meaning(lambda node, *xs: function(*jnp.broadcast_arrays(*xs)))


def _all(function: Callable[..., Any]) -> Meaning:
    """Of any number of operands, two by two."""
    return Meaning(lambda node, *xs: functools.reduce(function, xs))


def _mean(node: Any, *xs: Any) -> Any:
    return functools.reduce(jnp.add, xs) / len(xs)


def _clip(node: Any, x: Any, low: Any = None, high: Any = None) -> Any:
    x = x if low is None else jnp.maximum(x, low)
    return x if high is None else jnp.minimum(x, high)


def _mod(node: Any, x: Any, y: Any) -> Any:
    return jnp.fmod(x, y) if node["fmod"] else jnp.mod(x, y)


def _shift(node: Any, x: Any, y: Any) -> Any:
    return jnp.left_shift(x, y) if node["direction"] == "LEFT" else jnp.right_shift(x, y)


def _is_inf(node: Any, x: Any) -> Any:
    negative = jnp.isneginf(x) if node["detect_negative"] else False
    return negative | jnp.isposinf(x) if node["detect_positive"] else negative | jnp.zeros(x.shape, bool)


def _cast(node: Any, x: Any, like: Any = None) -> Any:
    return x.astype(helper.tensor_dtype_to_np_dtype(node["to"]) if like is None else like.dtype)


def _bitcast(node: Any, x: Any) -> Any:
    to = helper.tensor_dtype_to_np_dtype(node["to"])
    return x.view(to) if to == np.bool_ or x.dtype == np.bool_ else lax.bitcast_convert_type(x, to)


def _shrink(node: Any, x: Any) -> Any:
    bias, bound = node["bias"], node["lambd"]
    return jnp.where(x < -bound, x + bias, jnp.where(x > bound, x - bias, 0)).astype(x.dtype)


def _quantize(node: Any, x: Any, scale: Any, zero: Any = None) -> Any:
    named = helper.tensor_dtype_to_np_dtype(node["output_dtype"]) if node["output_dtype"] else np.dtype(np.uint8)
    kind = named if zero is None else zero.dtype
    scale, zero = (_along(node, x, each) for each in (scale, zero))
    info = np.iinfo(kind)
    wide = jnp.round(x / scale) + (0 if zero is None else zero.astype(jnp.float32))
    return jnp.clip(wide, int(info.min), int(info.max)).astype(kind)


def _dequantize(node: Any, x: Any, scale: Any, zero: Any = None) -> Any:
    kind = scale.dtype
    scale, zero = (_along(node, x, each) for each in (scale, zero))
    return (x.astype(jnp.int32) - (0 if zero is None else zero.astype(jnp.int32))).astype(kind) * scale


def _along(node: Any, x: Any, scale: Any) -> Any:
    """A scale for each slice of the axis, or for each block along it, beside the elements."""
    if scale is None or not scale.ndim or scale.size == 1:
        return None if scale is None else scale.reshape(())
    axis = node["axis"] % x.ndim
    if node["block_size"]:
        return lax.slice_in_dim(jnp.repeat(scale, node["block_size"], axis), 0, x.shape[axis], axis=axis)
    return scale.reshape([-1 if i == axis else 1 for i in range(x.ndim)])


def _dynamic_quantize(node: Any, x: Any) -> Any:
    low, high = jnp.minimum(0, jnp.min(x)), jnp.maximum(0, jnp.max(x))
    scale = (high - low) / 255
    zero = jnp.clip(jnp.round(-low / scale), 0, 255)
    return jnp.clip(jnp.round(x / scale) + zero, 0, 255).astype(jnp.uint8), scale, zero.astype(jnp.uint8)


def _dropout(node: Any, x: Any, ratio: Any = None, training: Any = None) -> Any:
    if training is not None and training and (ratio is None or ratio):
        raise NotImplementedError("random numbers")
    return (x, jnp.ones(x.shape, bool)) if len(node.outputs) > 1 else x


def _swiglu(node: Any, x: Any, *rest: Any) -> Any:
    gate, up = (x, rest[0]) if rest else jnp.split(x, 2, -1)
    return gate * jax.nn.sigmoid((node["alpha"] or 1) * gate) * up


ELEMENTWISE: dict[str, Meaning] = {
    **{
        name: _plain(getattr(jnp, name.lower()))
        for name in ("Abs", "Ceil", "Cos", "Cosh", "Exp", "Floor", "IsNaN", "Log", "Reciprocal", "Round", "Sign")
    },
    **{name: _plain(getattr(jnp, name.lower())) for name in ("Sin", "Sinh", "Sqrt", "Tan", "Tanh")},
    **{f"A{name}": _plain(getattr(jnp, f"arc{name}")) for name in ("cos", "cosh", "sin", "sinh", "tan", "tanh")},
    **{
        name: _all(function)
        for name, function in {
            "Add": jnp.add,
            "And": jnp.logical_and,
            "BitwiseAnd": jnp.bitwise_and,
            "BitwiseOr": jnp.bitwise_or,
            "BitwiseXor": jnp.bitwise_xor,
            "Equal": jnp.equal,
            "Greater": jnp.greater,
            "GreaterOrEqual": jnp.greater_equal,
            "Less": jnp.less,
            "LessOrEqual": jnp.less_equal,
            "Max": jnp.maximum,
            "Min": jnp.minimum,
            "Mul": jnp.multiply,
            "Or": jnp.logical_or,
            "Sub": jnp.subtract,
            "Sum": jnp.add,
            "Xor": jnp.logical_xor,
        }.items()
    },
    "BitCast": Meaning(_bitcast),
    "BitShift": Meaning(_shift),
    "BitwiseNot": _plain(jnp.bitwise_not),
    "Cast": Meaning(_cast),
    "CastLike": Meaning(_cast),
    "Celu": Meaning(lambda node, x: jax.nn.celu(x, node["alpha"])),
    "Clip": Meaning(_clip),
    "DequantizeLinear": Meaning(_dequantize),
    "Div": _together(lax.div),
    "Dropout": Meaning(_dropout, known=(1, 2)),
    "DynamicQuantizeLinear": Meaning(_dynamic_quantize),
    "Elu": Meaning(lambda node, x: jnp.where(x > 0, x, node["alpha"] * jnp.expm1(x))),
    "Erf": _plain(lax.erf),
    "Gelu": Meaning(lambda node, x: jax.nn.gelu(x, approximate=node["approximate"] == "tanh")),
    "HardSigmoid": Meaning(lambda node, x: jnp.clip(node["alpha"] * x + node["beta"], 0, 1)),
    "HardSwish": _plain(jax.nn.hard_swish),
    "Identity": Meaning(lambda node, x: x),
    "IsInf": Meaning(_is_inf),
    "IsNaN": _plain(jnp.isnan),
    "LeakyRelu": Meaning(lambda node, x: jax.nn.leaky_relu(x, node["alpha"])),
    "Mean": Meaning(_mean),
    "Mish": _plain(jax.nn.mish),
    "Mod": Meaning(_mod),
    "Neg": _plain(jnp.negative),
    "Not": _plain(jnp.logical_not),
    "PRelu": _plain(lambda x, slope: jnp.where(x < 0, x * slope, x)),
    "Pow": _plain(lambda x, y: jnp.power(x, y).astype(x.dtype)),
    "QuantizeLinear": Meaning(_quantize),
    "Reciprocal": _plain(jnp.reciprocal),
    "Relu": _plain(jax.nn.relu),
    "Selu": Meaning(lambda node, x: node["gamma"] * jnp.where(x > 0, x, node["alpha"] * jnp.expm1(x))),
    "Shrink": Meaning(_shrink),
    "Sigmoid": _plain(jax.nn.sigmoid),
    "Softplus": _plain(jax.nn.softplus),
    "Softsign": _plain(jax.nn.soft_sign),
    "SwiGLU": Meaning(_swiglu),
    "Swish": Meaning(lambda node, x: x * jax.nn.sigmoid(node["alpha"] * x)),
    "ThresholdedRelu": Meaning(lambda node, x: jnp.where(x > node["alpha"], x, 0)),
    "Where": _plain(jnp.where),
}
