"""Tracing what the user has into a module whose weights are arguments."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax import export
from jax.extend.source_info_util import register_exclusion

from zenith_mlir import hook
from zenith_mlir.errors import ZenithError
from zenith_mlir.ir import lifted
from zenith_mlir.ir.dimensions import state_dimensions
from zenith_mlir.ir.signature import main_function
from zenith_mlir.module import Module
from zenith_mlir.onnx.source import captured, names
from zenith_mlir.onnx.source.dimensions import Dynamic, symbolic
from zenith_mlir.onnx.source.inputs import abstract, of_call
from zenith_mlir.onnx.source.model import Model
from zenith_mlir.onnx.source.models import recognise
from zenith_mlir.onnx.source.program import Named, Parameter, Source
from zenith_mlir.onnx.source.reference import Reference
from zenith_mlir.onnx.source.weights import Weights

__all__ = ["trace_model"]

# Frames of these files are not the user's: JAX leaves them out of source locations.
register_exclusion(str(Path(__file__).parent))

# Arrays of at most so many elements that a function closes over stay constants, where passes see what they are; so do
# masks, which are no weights, and which passes read.
SMALL, SMALL_MASK = 32, 2**24


def trace_model(
    fn: Any,
    args: Sequence[Any],
    *,
    params: Any = None,
    kwargs: Mapping[str, Any] | None = None,
    dynamic: Dynamic = None,
    dynamic_constraints: Sequence[str] = (),
    input_names: Sequence[str] | None = None,
    output_names: Sequence[str] | None = None,
) -> Source:
    """The module of a function or model for arguments like these, with the names and values of its weights.

    `fn` is a function of arrays or pytrees, called `fn(params, *args, **kwargs)` if there are `params`, whose arrays
    are weights; a Linen module with `params=variables`; a Haiku transform with its `params`; a module of NNX or
    Equinox, a Keras model on JAX, a Flax model of Transformers; any callable pytree; a `functools.partial`, bound
    method or `jit` of these. Arrays that it closes over are weights too, but for small ones and masks.

    `args` and `kwargs` hold arrays, `jax.ShapeDtypeStruct`s, numbers (inputs, as for `jax.jit`), or pytrees of these.
    What is no input is bound with `functools.partial(fn, train=False)`.

    `dynamic` says which sizes are symbols. It maps names of inputs, of arguments or parts of them, or indices of
    arguments to what their dimensions are, `"batch, seq, 768"`, `"batch, ..., 3"`, `"batch, _"` with `_` as in the
    example, or `{0: "batch"}`; or is a list with one of these, or None, for each argument; or one string for all.
    `dynamic_constraints` are those of `jax.export`, `("seq >= 2",)`.

    Names come from signatures and pytrees. `input_names` and `output_names` replace them: one for each array, or one
    for each argument, or element of the result, in front of what is in it.

    Raises:
        ZenithError: for arguments that do not fit together, and where the values of inputs are needed to trace the
            model.
    """
    model = recognise(fn, params)
    call = of_call(model, args, kwargs)
    found, groups = [each.name for each in call.inputs], [each.argument for each in call.inputs]
    chosen = names.override(found, groups, input_names, "input")
    inputs = [replace(each, name=name) for name, each in zip(chosen, call.inputs, strict=True)]
    examples = symbolic(inputs, call.arguments, dynamic, dynamic_constraints)
    weights = Weights.of(model)

    def flat(parameters: list[Any], inputs: list[Any]) -> Any:
        args, kwargs = call.put_back(inputs)
        return model.call(weights.put_back(parameters), *args, **kwargs)

    shapes = [abstract(array) for array in weights.arrays]
    # The ambient pipeline is for programs that run here.
    with hook.pipeline(None):
        traced = _trace(model, flat, shapes, examples)
        closed, result = traced.jaxpr, traced.out_info
        constants = lifted.constants(closed, _is_weight)
        if constants:
            traced = _with_arguments(closed, constants, shapes, examples)
        # For the platform whose lowering has the fewest calls of libraries.
        module = Module(traced.lower(lowering_platforms=("cpu",)).compiler_ir("stablehlo"))
    state_dimensions(module.ir, [*constants.values(), *shapes, *examples])

    outputs = _output_names(model, result, chosen, output_names)
    titles = names.unique([*_constant_names(model, constants), *weights.names], [*chosen, *outputs])
    arrays = [*constants.values(), *weights.arrays]
    first = len(main_function(module.ir).regions[0].blocks[0].arguments) - len(arrays) - len(inputs)
    parameters = (
        Parameter(first + i, title, array, _dtype(array))
        for i, (title, array) in enumerate(zip(titles, arrays, strict=True))
    )
    named = (Named(first + len(arrays) + i, name) for i, name in enumerate(chosen))
    return Source(
        module,
        tuple(parameters),
        tuple(named),
        tuple(outputs),
        tuple(_notes(model, closed, weights)),
        Reference(flat, weights.arrays, tuple(_given(args, kwargs)), tuple(examples)),
    )


def _given(args: Sequence[Any], kwargs: Mapping[str, Any] | None) -> list[Any]:
    """The arrays among the arguments, as they came."""
    return jax.tree.leaves([*args, *(kwargs or {}).values()])


def _trace(model: Model, flat: Any, shapes: list[Any], examples: list[Any]) -> Any:
    try:
        return jax.jit(flat, keep_unused=True).trace(shapes, examples)
    except jax.errors.ConcretizationTypeError as error:
        raise ZenithError(
            f"{model.title} needs the value of an input to be traced: {_first_line(error)} If it is no input of the "
            "model, bind it: functools.partial(fn, train=False)"
        ) from error
    except jax.errors.InconclusiveDimensionOperation as error:
        raise ZenithError(
            f"{model.title} decides by a symbolic size: {_first_line(error)} Say what is known of it, "
            'dynamic_constraints=("seq <= 512",), or leave the size as it is in the example'
        ) from error
    except (TypeError, ValueError) as error:
        # JAX has no class for it.
        if "static arguments" in str(error):
            raise ZenithError(
                f"an argument of {model.title} is static for jax.jit and an input here; bind it: "
                "functools.partial(fn, n=3)"
            ) from error
        # Of shapes that do not fit, which may be for want of knowledge: seq and min(512, seq).
        if not any(export.is_symbolic_dim(size) for example in examples for size in np.shape(example)):
            raise
        raise ZenithError(
            f"{model.title} cannot be traced with symbolic sizes: {_first_line(error)} If this is true of some sizes "
            'only, say what is known of them, dynamic_constraints=("seq <= 512",), or leave sizes as in the example'
        ) from error


def _with_arguments(closed: Any, constants: dict[Hashable, Any], shapes: list[Any], examples: list[Any]) -> Any:
    """The same program with these arrays as its first arguments."""

    def flat(constants_: list[Any], parameters: list[Any], inputs: list[Any]) -> list[Any]:
        replaced = dict(zip(constants, constants_, strict=True))
        return lifted.evaluate(closed, replaced, *parameters, *inputs)

    first = [abstract(constant) for constant in constants.values()]
    return jax.jit(flat, keep_unused=True).trace(first, shapes, examples)


def _is_weight(constant: Any) -> bool:
    return int(constant.size) > (SMALL_MASK if constant.dtype == np.bool_ else SMALL)


def _constant_names(model: Model, constants: Mapping[Hashable, Any]) -> list[str]:
    found = captured.find(model.captures, set(constants)) if constants else {}
    return [found.get(key) or f"constant_{i}" for i, key in enumerate(constants)]


def _output_names(model: Model, result: Any, inputs: Sequence[str], given: Sequence[str] | None) -> list[str]:
    paths = [path for path, _ in jax.tree_util.tree_leaves_with_path(result)]
    if not paths:
        raise ZenithError(f"{model.title} returns no array; a model has one output at least")
    found = names.of_outputs(paths, inputs)
    named = all(not path or isinstance(path[0], jax.tree_util.SequenceKey) for path in paths)
    if named and model.output_names is not None and len(model.output_names) == len(found):
        found = list(model.output_names)
    top = {names.join(path[:1]): i for i, path in enumerate(paths)}
    return names.override(found, [top[names.join(path[:1])] for path in paths], given, "output", inputs)


def _dtype(array: Any) -> np.dtype[Any]:
    """What `main` takes it as. Random keys are words to a compiled program."""
    if jax.dtypes.issubdtype(array.dtype, jax.dtypes.prng_key):
        return np.dtype(np.uint32)
    return np.dtype(jax.dtypes.canonicalize_dtype(array.dtype))


def _notes(model: Model, closed: Any, weights: Weights) -> Iterator[str]:
    """A model that draws random numbers draws the same ones in every run, and none keeps what it writes."""
    read = {id(atom) for eqn in closed.jaxpr.eqns for atom in eqn.invars}
    drawn = [
        name
        for name, array, var in zip(weights.names, weights.arrays, closed.jaxpr.invars, strict=False)
        if id(var) in read and (name in model.random or jax.dtypes.issubdtype(array.dtype, jax.dtypes.prng_key))
    ]
    if drawn:
        yield (
            f"{model.title} draws random numbers from {', '.join(drawn)}, which are exported as they are: every run "
            "draws the same ones; put the model into evaluation mode (model.eval(), train=False) if it should draw none"
        )
    written = sorted(model.written - model.random)
    if written:
        shown = ", ".join(written[:6]) + (f" and {len(written) - 6} more" if len(written) > 6 else "")
        yield (
            f"{model.title} writes {shown}, which the model in the file does not: put it into evaluation mode, or, to "
            "have them as inputs and outputs, export a function of the split state that returns the new one"
        )


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0]
