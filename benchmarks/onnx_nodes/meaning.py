"""A function of JAX that means what a node does."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from onnx_nodes.cases import Case

__all__ = ["Meaning", "numbers"]


@dataclass(frozen=True)
class Meaning:
    """`function(node, *operands)`, where the operands in `known` are numbers: JAX needs them to know shapes."""

    function: Callable[..., Any]
    known: tuple[int, ...] = ()

    def of(self, case: Case) -> tuple[Callable[..., Any], list[Any]]:
        """A function of arrays alone, and the arrays of the test."""
        free = [i for i, x in enumerate(case.inputs) if x is not None and i not in self.known]

        def fn(*arrays: Any) -> Any:
            operands = list(case.inputs)
            for i, array in zip(free, arrays, strict=True):
                operands[i] = array
            return self.function(case.node, *operands)

        return fn, [case.inputs[i] for i in free]


def numbers(array: Any) -> list[int] | None:
    """An operand or attribute of integers as a list."""
    return None if array is None else [int(each) for each in (array if isinstance(array, list) else array.reshape(-1))]
