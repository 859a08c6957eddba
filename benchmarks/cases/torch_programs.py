"""Forwards and backwards in torch, from a function of torch.nn.functional and the inputs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from cases.case import Case, Program


def torch_forward(function: Callable[..., Any]) -> Callable[[Case], Program]:
    """`function(torch.nn.functional, *inputs)` without autograd."""

    def program(case: Case) -> Program:
        import torch

        def run(*inputs: Any) -> Any:
            with torch.inference_mode():
                return function(torch.nn.functional, *inputs)

        return run

    return program


def torch_vjp(function: Callable[..., Any]) -> Callable[[Case], Program]:
    """The backward alone: the forward's graph is kept."""

    def program(case: Case) -> Program:
        import torch

        graphs: list[Any] = []

        def run(*inputs: Any) -> Any:
            *leaves, cotangent = inputs
            if not graphs:
                leaves = [x.detach().requires_grad_() for x in leaves]
                graphs.append((leaves, function(torch.nn.functional, *leaves)))
            return torch.autograd.grad(graphs[0][1], graphs[0][0], cotangent, retain_graph=True)

        return run

    return program
