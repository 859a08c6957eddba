"""The first operation of a program whose ONNX form gives other numbers, by bisection over the values of main."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import onnx_ir as oir
from jaxlib.mlir import ir

from zenith_mlir.ir import location
from zenith_mlir.ir.composites import composite_name
from zenith_mlir.ir.facts import element_type, producer, shape
from zenith_mlir.ir.signature import main_function, update_signature
from zenith_mlir.module import Module
from zenith_mlir.onnx.conversion import Prepared
from zenith_mlir.onnx.differences import Difference, compare_arrays
from zenith_mlir.onnx.model import build_model
from zenith_mlir.onnx.options import Options
from zenith_mlir.onnx.run import Session

__all__ = ["Divergence", "first_divergence"]


@dataclass(frozen=True)
class Divergence:
    """The operation, the user's line that it comes from, and its difference; those before it agree."""

    op: str
    type: str
    line: str
    difference: Difference

    def __str__(self) -> str:
        unlike = f", {self.difference.unlike} not finite alike" if self.difference.unlike else ""
        return (
            f"first different: {self.op} : {self.type} at {self.line}, by {self.difference.maximum:.3g} "
            f"({self.difference.relative:.2e} of the scale{unlike})"
        )


def first_divergence(
    prepared: Prepared, options: Options, inputs: Sequence[Any], tolerance: float | None = None
) -> Divergence | None:
    """Where a program and its conversion part for `inputs`, the arrays of the arguments of main that are no weights.

    Differences are taken to stay once they are there. None if every value of main agrees.
    """
    with prepared.module.context:
        count = len(_candidates(prepared.module))
        low, high = 0, count
        found: dict[int, Difference] = {}
        while low < high:
            middle = (low + high) // 2
            found[middle] = _difference(prepared, options, inputs, middle)
            low, high = (low, middle) if not found[middle].within(tolerance) else (middle + 1, high)
        if low == count:
            return None
        return _described(_candidates(prepared.module)[low], found[low])


def _candidates(module: Module) -> list[ir.Value]:
    """Results of the operations of main in program order, but for constants."""
    ops = [view.operation for view in main_function(module.ir).regions[0].blocks[0].operations]
    return [result for op in ops if op.name != "stablehlo.constant" for result in op.results]


def _difference(prepared: Prepared, options: Options, inputs: Sequence[Any], k: int) -> Difference:
    module = _returning(prepared.module, k)
    interface = replace(prepared.interface, outputs=("value",))
    model, _ = build_model(module, interface, replace(options, layouts={}), prepared.sizes)
    found = Session(oir.to_proto(model).SerializeToString())(inputs)[0]
    weights = prepared.interface.weights
    rest = iter(inputs)
    arguments = [weights[i].array() if i in weights else next(rest) for i in range(len(module.input_specs))]
    expected = np.asarray(module.compile("cpu")(*arguments)[0])
    return compare_arrays("value", expected, found)


def _returning(module: Module, k: int) -> Module:
    """A copy whose main returns candidate `k` alone."""
    copy = module.clone()
    main = main_function(copy.ir)
    value = _candidates(copy)[k]
    *_, terminator = [view.operation for view in main.regions[0].blocks[0].operations]
    with ir.InsertionPoint(terminator), terminator.location:
        ir.Operation.create("func.return", operands=[value])
    terminator.erase()
    main.attributes["function_type"] = ir.TypeAttr.get(ir.FunctionType.get([], []))
    if "res_attrs" in main.attributes:
        del main.attributes["res_attrs"]
    update_signature(main)
    return copy


def _described(value: ir.Value, difference: Difference) -> Divergence:
    op = producer(value)
    name = composite_name(op) if op.name == "stablehlo.composite" else op.name
    frame = location.source_frame(op.location)
    kind = f"{element_type(value)}{list(shape(value))}"
    return Divergence(name, kind, f"{frame.file}:{frame.line}", difference)
