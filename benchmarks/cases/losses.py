"""Cross-entropy with integer labels: the loss, its gradient, and both at once for a cotangent that is known."""

from __future__ import annotations

from typing import Any

from cases.case import Case, Family, Input, Program, composite

_SHAPES = ((512, 50257), (1024, 32000), (4096, 1000), (64, 1000))


def _cases(name: str) -> list[Case]:
    return [Case.of(name, dtype, N=n, V=v) for dtype in ("float32", "bfloat16") for n, v in _SHAPES]


def _forward_inputs(case: Case) -> list[Input]:
    return [Input((case["N"], case["V"])), Input((case["N"],), high=case["V"])]


def _step_inputs(case: Case) -> list[Input]:
    return [*_forward_inputs(case), Input((case["N"],), "float32")]


def _bytes(arrays: int) -> Any:
    return lambda case: arrays * case["N"] * case["V"] * (4.0 if case.dtype == "float32" else 2.0)


def _torch(case: Case) -> Program:
    import torch

    def loss(logits: Any, labels: Any) -> Any:
        with torch.inference_mode():
            return torch.nn.functional.cross_entropy(logits, labels, reduction="none")

    return loss


def _torch_step(case: Case) -> Program:
    """Forward and backward, as torch has no other way to the gradient."""
    import torch

    def step(logits: Any, labels: Any, cotangent: Any) -> Any:
        leaf = logits.detach().requires_grad_()
        loss = torch.nn.functional.cross_entropy(leaf, labels, reduction="none")
        return loss, torch.autograd.grad(loss, leaf, cotangent.to(loss.dtype))

    return step


_STEP = {"loss": True}

FAMILIES = [
    Family(
        "cross-entropy",
        _cases("cross-entropy"),
        **composite("zenith.cross_entropy", lambda case: {}, _forward_inputs),
        torch=_torch,
        bytes=_bytes(1),
    ),
    Family(
        "cross-entropy + gradient",
        _cases("cross-entropy + gradient"),
        **composite("zenith.cross_entropy_vjp", lambda case: _STEP, _step_inputs),
        torch=_torch_step,
        bytes=_bytes(2),
    ),
]
