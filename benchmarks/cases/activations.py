"""GELU, SiLU and their gated forms, forward and backward, on a few shapes of hidden states."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from cases.case import Case, Family, Input, composite
from cases.torch_programs import torch_forward, torch_vjp

_SHAPES = ((4096, 768), (4096, 3072), (1024, 4096), (64, 768), (1, 4096))
_GELU = {"approximate": "none", "bias": False}
_GELU_TANH = {"approximate": "tanh", "bias": False}
_SILU = {"slope": 1.0, "bias": False}
_SWIGLU = {"activation": "silu", "slope": 1.0, "halves": "none", "bias": False}


def _cases(name: str) -> list[Case]:
    return [Case.of(name, dtype, N=n, F=f) for dtype in ("float32", "bfloat16") for n, f in _SHAPES]


def _moved(arrays: int) -> Callable[[Case], float]:
    return lambda case: arrays * case["N"] * case["F"] * (4.0 if case.dtype == "float32" else 2.0)


def _onnx(node: str, **attributes: Any) -> Callable[[Case], Any]:
    def model(case: Case) -> Any:
        from onnx import TensorProto, helper

        if case.dtype != "float32":
            return None
        shape = [case["N"], case["F"]]
        x, out = (helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name in ("x", "out"))
        graph = helper.make_graph([helper.make_node(node, ["x"], ["out"], **attributes)], node, [x], [out])
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)

    return model


def _family(
    name: str, op: str, attributes: dict[str, Any], operands: int, function: Callable[..., Any], onnx: Any = None
) -> list[Family]:
    """Forward and backward."""

    def inputs(count: int) -> Callable[[Case], list[Input]]:
        return lambda case: [Input((case["N"], case["F"]))] * count

    forward = composite(op, lambda case: attributes, inputs(operands))
    backward = composite(f"{op}_vjp", lambda case: attributes, inputs(operands + 1))
    return [
        Family(name, _cases(name), **forward, torch=torch_forward(function), onnx=onnx, bytes=_moved(operands + 1)),
        Family(
            f"{name} vjp",
            _cases(f"{name} vjp"),
            **backward,
            torch=torch_vjp(function),
            bytes=_moved(2 * operands + 1),
        ),
    ]


FAMILIES = [
    *_family("gelu", "zenith.gelu", _GELU, 1, lambda nn, x: nn.gelu(x), _onnx("Gelu")),
    *_family(
        "gelu tanh",
        "zenith.gelu",
        _GELU_TANH,
        1,
        lambda nn, x: nn.gelu(x, approximate="tanh"),
        _onnx("Gelu", approximate="tanh"),
    ),
    *_family("silu", "zenith.silu", _SILU, 1, lambda nn, x: nn.silu(x)),
    *_family("swiglu", "zenith.swiglu", _SWIGLU, 2, lambda nn, gate, up: nn.silu(gate) * up),
]
