"""From a module to an ONNX model: inputs and weights, the walk, outputs, and the clean-up of onnx_ir."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx_ir as oir
import onnx_ir.passes.common as clean_up
from jaxlib.mlir import ir

from zenith_mlir import __version__
from zenith_mlir.errors import ZenithError
from zenith_mlir.ir.facts import shape, users
from zenith_mlir.ir.signature import main_function
from zenith_mlir.ir.symbols import functions
from zenith_mlir.module import Module
from zenith_mlir.onnx.arrange import dense
from zenith_mlir.onnx.builder import Builder
from zenith_mlir.onnx.convert import Refusal, Walk, onnx_type
from zenith_mlir.onnx.sizes import Sizes, StaticSizes
from zenith_mlir.onnx.table import LOWERINGS
from zenith_mlir.onnx.view import View

__all__ = ["IR_VERSIONS", "OPSETS", "Interface", "Unconvertible", "build_model"]

# The oldest version of the file format that has the opset (onnx/docs/Versioning.md).
IR_VERSIONS = {17: 8, 18: 8, 19: 9, 20: 9, 21: 10, 22: 10, 23: 11, 24: 12}
OPSETS = tuple(IR_VERSIONS)


class Unconvertible(ZenithError):
    """Operations of a module that have no ONNX form, all of them; nothing was written."""

    def __init__(self, refusals: Sequence[Refusal]):
        self.refusals = tuple(refusals)
        counts = Counter(map(str, refusals))
        lines = [f"  {text}" + (f" ({count} times)" if count > 1 else "") for text, count in counts.items()]
        super().__init__("\n".join([f"{len(refusals)} operations have no ONNX form:", *lines]))


@dataclass(frozen=True)
class Interface:
    """What is outside of the graph: which arguments of main are inputs, which are weights, and what all are called.

    `inputs` are names by the index of the argument, `weights` names and arrays, `computed` sizes that main takes as
    values; an argument in none of them is an input called as JAX calls it.
    """

    inputs: Mapping[int, str] = field(default_factory=dict)
    weights: Mapping[int, tuple[str, Any]] = field(default_factory=dict)
    computed: Mapping[int, int] = field(default_factory=dict)
    outputs: Sequence[str] = ()


def build_model(
    module: Module, interface: Interface, opset: int = 23, sizes: Sizes | None = None
) -> tuple[oir.Model, Builder]:
    """The model of `module`, and the builder with its notes.

    Raises:
        Unconvertible: for operations that cannot be converted; it holds all of them.
        ZenithError: for an opset that is not in `OPSETS`, or names that clash.
    """
    if opset not in IR_VERSIONS:
        raise ZenithError(f"opset {opset} is none that can be written; there are {OPSETS[0]} to {OPSETS[-1]}")
    builder = Builder(opset, sizes or StaticSizes())
    with module.context:
        main = main_function(module.ir)
        walk = Walk(builder, LOWERINGS, functions(module.operation))
        block = main.regions[0].blocks[0]
        results = walk.block(block, _arguments(builder, block, interface))
        if walk.refusals:
            raise Unconvertible(walk.refusals)
        _set_outputs(builder, results, interface.outputs)
    builder.main.opset_imports.update({"": opset})
    model = oir.Model(
        builder.main, ir_version=IR_VERSIONS[opset], producer_name="zenith_mlir", producer_version=__version__
    )
    _clean(model)
    return model, builder


def _arguments(builder: Builder, block: ir.Block, interface: Interface) -> list[View]:
    return [_argument(builder, argument, index, interface) for index, argument in enumerate(block.arguments)]


def _argument(builder: Builder, argument: ir.BlockArgument, index: int, interface: Interface) -> View:
    dims, dtype = shape(argument), onnx_type(argument)
    if index in interface.computed:
        size = builder.cast(builder.dims([interface.computed[index]]), dtype)
        return View.of(builder.reshape(size, dims), dims)
    if index in interface.weights:
        name, array = interface.weights[index]
        tensor = _weight(array, dtype, dims, name)
        return View.of(builder.initializer(tensor, name, shared=len(users(argument)) > 1), dims)
    value = builder.value(dtype, dims, interface.inputs.get(index, f"arg{index}"))
    builder.main.inputs.append(value)
    return View.of(value, dims)


def _weight(array: Any, dtype: oir.DataType, dims: Sequence[int], name: str) -> oir.TensorProtocol:
    """A tensor that asks for the elements when they are written: weights may be larger than memory."""
    return oir.LazyTensor(lambda: oir.Tensor(np.asarray(array), dtype, name=name), dtype, oir.Shape(dims), name=name)


def _set_outputs(builder: Builder, results: Sequence[View], names: Sequence[str]) -> None:
    names = names or [f"output_{i}" for i in range(len(results))]
    taken = {value.name for value in builder.main.inputs} | set(builder.main.initializers)
    clash = next((name for name in names if name in taken), None)
    if clash or len(set(names)) < len(names):
        raise ZenithError(
            f"the output name {clash or names} is given twice; inputs, weights and outputs share one space"
        )
    for view, name in zip(results, names, strict=True):
        value = dense(builder, view)
        # An output is computed by a node of its own: it may be an input, a constant, or another output.
        output = builder.nodes("Identity", [value], [(view.dtype, view.shape)])[0]
        output.name = name
        builder.main.outputs.append(output)


def _clean(model: oir.Model) -> None:
    passes = [
        clean_up.IdentityEliminationPass(),
        clean_up.RemoveUnusedNodesPass(),
        clean_up.CommonSubexpressionEliminationPass(),
        clean_up.RemoveUnusedNodesPass(),
    ]
    oir.passes.Sequential(*passes)(model)
