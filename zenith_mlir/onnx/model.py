"""From a module to an ONNX model: inputs and weights, the walk, outputs, and the clean-up of onnx_ir."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import onnx_ir as oir
import onnx_ir.passes.common as clean_up
from jaxlib.mlir import ir

from zenith_mlir import __version__
from zenith_mlir.errors import ZenithError, did_you_mean
from zenith_mlir.ir.facts import shape, users
from zenith_mlir.ir.signature import main_function
from zenith_mlir.ir.symbols import functions
from zenith_mlir.module import Module
from zenith_mlir.onnx.arrange import dense
from zenith_mlir.onnx.builder import Builder
from zenith_mlir.onnx.complex_values import joined, part_type, split
from zenith_mlir.onnx.convert import Refusal, Walk, is_complex, onnx_type
from zenith_mlir.onnx.identities import drop_identities
from zenith_mlir.onnx.layouts import stored_permutation
from zenith_mlir.onnx.options import Options
from zenith_mlir.onnx.program import Weight
from zenith_mlir.onnx.sizes import Sizes, StaticSizes
from zenith_mlir.onnx.table import LOWERINGS
from zenith_mlir.onnx.view import View

__all__ = ["Interface", "Unconvertible", "build_model"]

# The oldest version of the file format that has the opset (onnx/docs/Versioning.md).
_IR_VERSIONS = {17: 8, 18: 8, 19: 9, 20: 9, 21: 10, 22: 10, 23: 11, 24: 12}


class Unconvertible(ZenithError):
    """Operations of a module that have no ONNX form, all of them; nothing was written."""

    def __init__(self, refusals: Sequence[Refusal]):
        self.refusals = tuple(refusals)
        counts = Counter(map(str, refusals))
        lines = [f"  {text}" + (f" ({count} times)" if count > 1 else "") for text, count in counts.items()]
        super().__init__("\n".join([f"{_operations(len(refusals))} no ONNX form:", *lines]))


def _operations(count: int) -> str:
    return "1 operation has" if count == 1 else f"{count} operations have"


@dataclass(frozen=True)
class Interface:
    """What is outside of the graph: which arguments of main are inputs, which are weights, and what all are called.

    By the index of the argument: `inputs` have names, `computed` the sizes that main takes as values. An argument in
    none of the three is an input called `arg` and its index.
    """

    inputs: Mapping[int, str] = field(default_factory=dict)
    weights: Mapping[int, Weight] = field(default_factory=dict)
    computed: Mapping[int, Callable[[Builder], oir.Value]] = field(default_factory=dict)
    outputs: Sequence[str] = ()


def build_model(
    module: Module, interface: Interface, options: Options | None = None, sizes: Sizes | None = None
) -> tuple[oir.Model, Builder]:
    """The model of `module`, and the builder with its notes.

    Raises:
        Unconvertible: for operations that cannot be converted; it holds all of them.
        ZenithError: for names that clash, and layouts that do not fit.
    """
    options = options or Options()
    builder = Builder(options.opset, sizes or StaticSizes(), options.fused, options.microsoft)
    with module.context:
        main = main_function(module.ir)
        walk = Walk(builder, LOWERINGS, functions(module.operation))
        block = main.regions[0].blocks[0]
        arguments = _arguments(builder, block, interface, options)
        for i, argument in enumerate(block.arguments):
            if is_complex(argument) and i not in interface.weights:
                walk.parts[argument] = split(builder, arguments[i])
                arguments[i] = walk.parts[argument][0]
        results = walk.block(block, arguments)
        if walk.refusals:
            raise Unconvertible(walk.refusals) from walk.failure
        returned = list(list(block.operations)[-1].operands)
        if not returned:
            raise ZenithError("main returns nothing; a model has one output at least")
        pairs = zip(returned, results, strict=True)
        results = [joined(walk, value) if is_complex(value) else view for value, view in pairs]
        _set_outputs(builder, results, interface.outputs, options)
        _check_layouts(builder, options)
    builder.main.opset_imports.update({"": options.opset, **builder.domains})
    model = oir.Model(
        builder.main, ir_version=_IR_VERSIONS[options.opset], producer_name="zenith_mlir", producer_version=__version__
    )
    _clean(model)
    builder.restore_names()
    return model, builder


def _arguments(builder: Builder, block: ir.Block, interface: Interface, options: Options) -> list[View]:
    """Sizes that main takes as values come last: they are computed from the shapes of the inputs."""
    found: dict[int, View] = {}
    for i in sorted(range(len(block.arguments)), key=lambda i: i in interface.computed):
        found[i] = _argument(builder, block.arguments[i], i, interface, options)
    return [found[i] for i in range(len(found))]


def _argument(builder: Builder, argument: ir.BlockArgument, index: int, interface: Interface, options: Options) -> View:
    dims, dtype = shape(argument), onnx_type(argument)
    if is_complex(argument) and index not in interface.weights:
        dims, dtype = (*dims, 2), part_type(dtype)
    if index in interface.computed:
        size = interface.computed[index](builder)
        return View.of(builder.reshape(builder.cast(size, dtype), dims), dims)
    if index in interface.weights:
        weight = interface.weights[index]
        tensor = _tensor(weight, dtype, dims)
        return View.of(builder.weight(tensor, weight.name, shared=len(users(argument)) > 1), dims)
    name = interface.inputs.get(index, f"arg{index}")
    permutation = stored_permutation(options.layouts, name, dims)
    value = builder.value(dtype, [dims[d] for d in permutation], name)
    builder.main.inputs.append(value)
    stored = View.of(value, [dims[d] for d in permutation])
    view = stored.transposed([permutation.index(d) for d in range(len(dims))])
    builder.sizes.bind(index, view)
    return view


def _tensor(weight: Weight, dtype: oir.DataType, dims: Sequence[int]) -> oir.TensorProtocol:
    """A tensor that asks for the elements when they are written: weights may be larger than memory."""
    return oir.LazyTensor(
        lambda: oir.Tensor(weight.array(), dtype, name=weight.name), dtype, oir.Shape(dims), name=weight.name
    )


def _set_outputs(builder: Builder, results: Sequence[View], names: Sequence[str], options: Options) -> None:
    names = names or [f"output_{i}" for i in range(len(results))]
    taken = {value.name for value in builder.main.inputs} | set(builder.main.initializers)
    clash = next((name for name in names if name in taken), None)
    if clash or len(set(names)) < len(names):
        raise ZenithError(
            f"the output name {clash or names} is given twice; inputs, weights and outputs share one space"
        )
    for result, name in zip(results, names, strict=True):
        view = result.transposed(stored_permutation(options.layouts, name, result.shape))
        value = dense(builder, view)
        # An output is computed by a node of its own: it may be an input, a constant, or another output.
        output = builder.nodes("Identity", [value], [(view.dtype, view.shape)])[0]
        output.name = name
        builder.main.outputs.append(output)


def _check_layouts(builder: Builder, options: Options) -> None:
    names = [str(value.name) for value in (*builder.main.inputs, *builder.main.outputs)]
    for name in options.layouts:
        if name not in names:
            raise ZenithError(
                f"layouts names {name!r}, which is no input or output{did_you_mean(name, names)}; these are "
                f"{', '.join(names)}"
            )


def _clean(model: oir.Model) -> None:
    drop_identities(model)
    passes = [
        clean_up.RemoveUnusedNodesPass(),
        clean_up.CommonSubexpressionEliminationPass(),
        clean_up.RemoveUnusedNodesPass(),
    ]
    oir.passes.Sequential(*passes)(model)
