"""From a program to an ONNX model: symbols made static, passes, weights computed, the walk."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial

import onnx_ir as oir

from zenith_mlir.ir.dimensions import is_symbolic
from zenith_mlir.ir.facts import users
from zenith_mlir.ir.signature import main_function
from zenith_mlir.module import Module
from zenith_mlir.onnx.builder import Builder
from zenith_mlir.onnx.chlo import expand_chlo
from zenith_mlir.onnx.differences import narrowest_float
from zenith_mlir.onnx.dynamic import Specialized, specialize
from zenith_mlir.onnx.dynamic.expr import Expr
from zenith_mlir.onnx.fold import fold_constants
from zenith_mlir.onnx.linalg import expand_linalg
from zenith_mlir.onnx.model import Interface, build_model
from zenith_mlir.onnx.options import Options
from zenith_mlir.onnx.program import Program, Weight
from zenith_mlir.onnx.sizes import Sizes, StaticSizes
from zenith_mlir.onnx.symbolic_sizes import SymbolicSizes
from zenith_mlir.onnx.table import LOWERINGS
from zenith_mlir.remarks import Remark

__all__ = ["Converted", "Prepared", "at_sizes", "convert", "prepare"]

Step = Callable[[str], None]
"""Told what is being done, for whoever watches."""


@dataclass(frozen=True)
class Prepared:
    """A module as it is walked: after passes and folding, with all its weights."""

    module: Module
    interface: Interface
    sizes: Sizes
    remarks: tuple[Remark, ...] = ()


@dataclass(frozen=True)
class Converted:
    """A model, what a user should know of it, how many composites became which operator, and the float of fewest digits
    that it computes in.
    """

    model: oir.Model
    notes: tuple[str, ...] = ()
    fused: Mapping[str, int] = field(default_factory=Counter)
    narrowest: str = ""


def prepare(program: Program, options: Options, step: Step = lambda doing: None) -> Prepared:
    """Run the passes of `options`, expand what has no lowering, and compute what weights alone lead to."""
    program, sizes, computed = _made_static(program if options.weights == "input" else _tied(program))
    step("running passes")
    module = program.module.run(options.pipeline, target="none")
    remarks = tuple(module.remarks)
    expand_chlo(module, LOWERINGS)
    expand_linalg(module, sizes.is_symbolic)
    known = {} if options.weights == "input" else program.arrays
    step("computing what is constant")
    added = fold_constants(module, known, sizes.is_symbolic)
    weights = dict(program.weights)
    for index, (array, leaves) in added.items():
        name = _take_name(module, weights, index, sorted(leaves))
        weights[index] = Weight(name, lambda array=array: array)  # type: ignore[misc]
    inputs = dict(program.inputs)
    if options.weights == "input":
        inputs.update((index, weights.pop(index).name) for index in program.weights)
    return Prepared(module, Interface(inputs, weights, computed, program.outputs), sizes, remarks)


def _tied(program: Program) -> Program:
    """The program with one argument read in the place of all that are one array to the user."""
    first: dict[int, int] = {}
    again = {
        i: first[id(weight.origin)]
        for i, weight in sorted(program.weights.items())
        if weight.origin is not None and first.setdefault(id(weight.origin), i) != i
    }
    if not again:
        return program
    module = program.module.clone()
    with module.context:
        arguments = main_function(module.ir).regions[0].blocks[0].arguments
        for i, same in again.items():
            arguments[i].replace_all_uses_with(arguments[same])
    return replace(program, module=module)


def at_sizes(program: Program, size: int) -> Program:
    """The program with `size` for each symbolic dimension, to be run."""
    if not is_symbolic(program.module.ir):
        return program
    symbols = specialize(program.module).symbols
    return _moved(program, specialize(program.module, at=dict.fromkeys(symbols, size)))


def _made_static(program: Program) -> tuple[Program, Sizes, dict[int, Callable[[Builder], oir.Value]]]:
    """The program with numbers for its symbolic sizes, what these mean, and arguments of main that are such sizes."""
    if not is_symbolic(program.module.ir):
        return program, StaticSizes(), {}
    specialized = specialize(program.module)
    sizes = SymbolicSizes(specialized)
    computed: dict[int, Callable[[Builder], oir.Value]] = {
        i: partial(_size, sizes, expr) for i, expr in specialized.scalars.items()
    }
    return _moved(program, specialized), sizes, computed


def _moved(program: Program, specialized: Specialized) -> Program:
    """The arguments that hold sizes are gone; the others keep their order."""
    moved = dict(zip(sorted([*program.weights, *program.inputs]), sorted(specialized.inputs), strict=True))
    return replace(
        program,
        module=specialized.module,
        weights={moved[i]: weight for i, weight in program.weights.items()},
        inputs={moved[i]: name for i, name in program.inputs.items()},
    )


def _size(sizes: SymbolicSizes, expr: Expr, builder: Builder) -> oir.Value:
    return sizes.expression(builder, expr)


def convert(program: Program, options: Options, step: Step = lambda doing: None) -> Converted:
    """The model of `program`.

    Raises:
        Unconvertible: for operations that ONNX has no form of.
        ZenithError: for what else does not go.
    """
    prepared = prepare(program, options, step)
    step("converting")
    model, builder = build_model(prepared.module, prepared.interface, options, prepared.sizes)
    model.metadata_props.update(options.metadata)
    narrowest = narrowest_float(prepared.module.operation)
    return Converted(model, (*program.notes, *builder.notes), Counter(builder.fused_ops), narrowest)


def _take_name(module: Module, weights: dict[int, Weight], index: int, leaves: Sequence[int]) -> str:
    """What argument `index`, computed from the weights `leaves`, is called: as one of them of its shape that nothing
    else uses now, else after the first.
    """
    arguments = main_function(module.ir).regions[0].blocks[0].arguments
    for leaf in leaves:
        name = weights[leaf].name
        if arguments[leaf].type == arguments[index].type and not users(arguments[leaf]) and not name.endswith(_GONE):
            weights[leaf] = replace(weights[leaf], name=name + _GONE)
            return name
    return f"{weights[leaves[0]].name.removesuffix(_GONE)}.folded_{index}" if leaves else f"constant_{index}"


# The name of a weight whose place another took; it is not written.
_GONE = ".folded"
