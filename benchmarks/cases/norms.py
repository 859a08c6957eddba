"""LayerNorm and RMSNorm with their weights, forward and backward."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from cases.case import Case, Family, Input, composite
from cases.torch_programs import torch_forward, torch_vjp

_SHAPES = ((4096, 768), (4096, 4096), (1024, 2048), (64, 768), (1, 4096))


def _cases(name: str) -> list[Case]:
    return [Case.of(name, dtype, N=n, F=f) for dtype in ("float32", "bfloat16") for n, f in _SHAPES]


def _inputs(rows: int, weights: int) -> Callable[[Case], list[Input]]:
    """`rows` arrays [N, F] around `weights` arrays [F]."""

    def inputs(case: Case) -> list[Input]:
        row, weight = Input((case["N"], case["F"])), Input((case["F"],))
        return [row, *[weight] * weights, *[row] * (rows - 1)]

    return inputs


def _moved(arrays: int) -> Callable[[Case], float]:
    return lambda case: arrays * case["N"] * case["F"] * (4.0 if case.dtype == "float32" else 2.0)


def _onnx(case: Case) -> Any:
    from onnx import TensorProto, helper

    if case.dtype != "float32" or case.kernel != "layer norm":
        return None
    rows, features = [case["N"], case["F"]], [case["F"]]
    shapes = {"x": rows, "weight": features, "bias": features, "out": rows}
    info = {name: helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in shapes.items()}
    node = helper.make_node("LayerNormalization", ["x", "weight", "bias"], ["out"], epsilon=1e-5)
    graph = helper.make_graph([node], "norm", [info[name] for name in ("x", "weight", "bias")], [info["out"]])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


def _family(name: str, op: str, bias: bool, function: Callable[..., Any]) -> list[Family]:
    attributes = {"epsilon": 1e-5, "axes": 1, "weight": True, "bias": bias}
    gradients = {**attributes, "dweight": True, "dbias": bias}
    forward = composite(op, lambda case: attributes, _inputs(1, 1 + bias))
    backward = composite(f"{op}_vjp", lambda case: gradients, _inputs(2, 1))
    return [
        Family(name, _cases(name), **forward, torch=torch_forward(function), onnx=_onnx, bytes=_moved(2)),
        Family(
            f"{name} vjp",
            _cases(f"{name} vjp"),
            **backward,
            torch=torch_vjp(lambda nn, x, weight: function(nn, x, weight, *[weight] * bias)),
            bytes=_moved(3),
        ),
    ]


def _layer_norm(nn: Any, x: Any, weight: Any, bias: Any) -> Any:
    return nn.layer_norm(x, x.shape[-1:], weight, bias, 1e-5)


def _rms_norm(nn: Any, x: Any, weight: Any) -> Any:
    return nn.rms_norm(x, x.shape[-1:], weight, 1e-5)


FAMILIES = [
    *_family("layer norm", "zenith.layer_norm", True, _layer_norm),
    *_family("rms norm", "zenith.rms_norm", False, _rms_norm),
]
