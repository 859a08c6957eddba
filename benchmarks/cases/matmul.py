"""Products of bfloat16: x w, and x w + b with a GELU and a residual behind it."""

from __future__ import annotations

from typing import Any

from cases.case import Case, Family, Input, Program, composite

_SHAPES = (
    (4096, 768, 768), (4096, 768, 3072), (4096, 3072, 768), (1024, 768, 768), (1024, 768, 3072), (512, 4096, 4096),
    (128, 768, 768), (16, 1024, 4096), (1, 4096, 4096), (100, 300, 77), (8, 64, 64),
)  # fmt: skip
_AXES = {"lhs": "m k", "rhs": "k n", "out": "m n"}


def _cases(name: str, dtypes: tuple[str, ...]) -> list[Case]:
    return [Case.of(name, dtype, M=m, K=k, N=n) for dtype in dtypes for m, k, n in _SHAPES]


def _sizes(case: Case) -> dict[str, int]:
    return {"m": case["M"], "k": case["K"], "n": case["N"]}


def _plain_attributes(case: Case) -> dict[str, Any]:
    return {"axes": _sizes(case), **_AXES}


def _layer_attributes(case: Case) -> dict[str, Any]:
    steps = [{"kind": "add", "operand": 2}, {"kind": "gelu_tanh"}, {"kind": "add", "operand": 3}]
    return {"axes": _sizes(case), **_AXES, "modifiers": ["n", "m n"], "steps": steps}


def _plain_inputs(case: Case) -> list[Input]:
    return [Input((case["M"], case["K"])), Input((case["K"], case["N"]), scale=case["K"] ** -0.5)]


def _layer_inputs(case: Case) -> list[Input]:
    return [*_plain_inputs(case), Input((case["N"],)), Input((case["M"], case["N"]))]


def _plain(case: Case) -> Program:
    return lambda x, w: x @ w


def _layer(case: Case) -> Program:
    import jax

    return lambda x, w, bias, residual: jax.nn.gelu(x @ w + bias) + residual


def _torch_layer(case: Case) -> Program:
    import torch

    def layer(x: Any, w: Any, bias: Any, residual: Any) -> Any:
        return torch.nn.functional.gelu(torch.addmm(bias, x, w), approximate="tanh") + residual

    return layer


def _flops(case: Case) -> float:
    return 2.0 * case["M"] * case["K"] * case["N"]


def _bytes(case: Case) -> float:
    return 2.0 * (case["M"] * case["K"] + case["K"] * case["N"] + case["M"] * case["N"])


FAMILIES = [
    Family(
        "matmul",
        _cases("matmul", ("bfloat16", "float16")),
        **{**composite("zenith.matmul", _plain_attributes, _plain_inputs), "formula": _plain},
        torch=_plain,
        flops=_flops,
        bytes=_bytes,
    ),
    Family(
        "matmul+bias+gelu+residual",
        _cases("matmul+bias+gelu+residual", ("bfloat16",)),
        **{**composite("zenith.matmul", _layer_attributes, _layer_inputs), "formula": _layer},
        torch=_torch_layer,
        flops=_flops,
        bytes=_bytes,
    ),
]
