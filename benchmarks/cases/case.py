"""One measurement, and the programs by which each peer makes it."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from typing import Any

import numpy as np


@dataclasses.dataclass(frozen=True)
class Case:
    kernel: str
    dtype: str
    sizes: tuple[tuple[str, int], ...]
    variant: str = ""

    @classmethod
    def of(cls, kernel: str, dtype: str, variant: str = "", **sizes: int) -> Case:
        return cls(kernel, dtype, tuple(sizes.items()), variant)

    def __getitem__(self, name: str) -> int:
        return dict(self.sizes)[name]

    def __str__(self) -> str:
        sizes = " ".join(f"{name}{size}" for name, size in self.sizes)
        return " ".join(part for part in (self.kernel, self.dtype, sizes, self.variant) if part)


@dataclasses.dataclass(frozen=True)
class Input:
    """A random array: normal times `scale`, or integers below `high`. `dtype` is the case's where it is empty."""

    shape: tuple[int, ...]
    dtype: str = ""
    high: int = 0
    scale: float = 1.0

    def make(self, seed: int) -> np.ndarray:
        rng = np.random.default_rng(seed)
        if self.high:
            return rng.integers(0, self.high, self.shape).astype(np.int32)
        return self.scale * rng.standard_normal(self.shape, np.float32)

    def spec(self, case: Case) -> Any:
        import jax
        import jax.numpy as jnp

        return jax.ShapeDtypeStruct(self.shape, jnp.dtype("int32" if self.high else self.dtype or case.dtype))


Program = Callable[..., Any]


@dataclasses.dataclass(frozen=True)
class Family:
    """A kernel with its cases.

    Each of the others takes a case and gives a program of its inputs: `formula` in plain jnp, as users write it;
    `fused` with our kernel; `torch` as torch's users call it. `onnx` gives a model, of `onnx_inputs`. None where a peer
    has no such operation. `request` is the one that the cost model weighs. `flops` and `bytes` count what has to be
    done and moved at least.
    """

    name: str
    cases: Sequence[Case]
    inputs: Callable[[Case], Sequence[Input]]
    formula: Callable[[Case], Program]
    fused: Callable[[Case], Program]
    torch: Callable[[Case], Program] | None = None
    onnx: Callable[[Case], Any] | None = None
    onnx_inputs: Callable[[Case, list[Any]], list[Any]] = lambda case, arrays: arrays
    request: Callable[[Case], tuple[str, Any]] | None = None
    flops: Callable[[Case], float] = lambda case: 0.0
    bytes: Callable[[Case], float] = lambda case: 0.0


def composite(
    name: str, attributes: Callable[[Case], Mapping[str, Any]], inputs: Callable[[Case], Sequence[Input]]
) -> dict[str, Any]:
    """What a family of a zenith op has: its decomposition, its CPU implementation, what that is asked."""

    def formula(case: Case) -> Program:
        from zenith_mlir.dialects.table import OPS

        module = import_module(f"zenith_mlir.dialects.{name.removeprefix('zenith.')}")
        return functools.partial(module.reference, OPS[name].read(dict(attributes(case))))

    def request(case: Case) -> tuple[str, Any]:
        import jax

        from zenith_mlir.dialects.implementation import Request, TensorSpec
        from zenith_mlir.target import Target

        def tensors(values: Any) -> tuple[TensorSpec, ...]:
            return tuple(TensorSpec(value.shape, np.dtype(value.dtype)) for value in jax.tree.leaves(values))

        operands = [each.spec(case) for each in inputs(case)]
        program = formula(case)
        results = tensors(jax.eval_shape(program, *operands))
        return name, Request(program.args[0], tensors(operands), results, Target.parse("cpu"))

    def fused(case: Case) -> Program:
        from zenith_mlir.dialects.table import OPS

        _, asked = request(case)
        (row,) = (row for row in OPS[name].implementations if row.platform == "cpu")
        refusal = row.refuse(asked)
        assert refusal is None, refusal
        return row.build(asked)

    return {"inputs": inputs, "formula": formula, "fused": fused, "request": request}
