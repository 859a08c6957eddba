"""Softmax and log-softmax over the last axis, forward and backward."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from cases.case import Case, Family, Input, composite
from cases.torch_programs import torch_forward, torch_vjp

_SHAPES = ((4096, 768), (4096, 4096), (1024, 2048), (64, 768), (1, 4096))


def _cases(name: str) -> list[Case]:
    return [Case.of(name, dtype, N=n, F=f) for dtype in ("float32", "bfloat16") for n, f in _SHAPES]


def _inputs(arrays: int) -> Callable[[Case], list[Input]]:
    return lambda case: [Input((case["N"], case["F"]))] * arrays


def _moved(arrays: int) -> Callable[[Case], float]:
    return lambda case: arrays * case["N"] * case["F"] * (4.0 if case.dtype == "float32" else 2.0)


def _onnx(node: str) -> Callable[[Case], Any]:
    def model(case: Case) -> Any:
        from onnx import TensorProto, helper

        if case.dtype != "float32":
            return None
        shape = [case["N"], case["F"]]
        x, out = (helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name in ("x", "out"))
        graph = helper.make_graph([helper.make_node(node, ["x"], ["out"], axis=-1)], node, [x], [out])
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=9)

    return model


def _family(name: str, op: str, node: str, function: Callable[..., Any]) -> list[Family]:
    forward = composite(op, lambda case: {"scale": 1.0}, _inputs(1))
    backward = composite(f"{op}_vjp", lambda case: {"scale": 1.0}, _inputs(2))
    return [
        Family(name, _cases(name), **forward, torch=torch_forward(function), onnx=_onnx(node), bytes=_moved(2)),
        Family(f"{name} vjp", _cases(f"{name} vjp"), **backward, torch=torch_vjp(function), bytes=_moved(3)),
    ]


FAMILIES = [
    *_family("softmax", "zenith.softmax", "Softmax", lambda nn, x: nn.softmax(x, -1)),
    *_family("log-softmax", "zenith.log_softmax", "LogSoftmax", lambda nn, x: nn.log_softmax(x, -1)),
]
