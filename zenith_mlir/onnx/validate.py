"""validate_onnx: a model beside the JAX function that it was made of."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import jax

from zenith_mlir.errors import ZenithError
from zenith_mlir.onnx.check import compare_results, stored, worst_of
from zenith_mlir.onnx.conversion import Prepared, prepare
from zenith_mlir.onnx.differences import narrowest_float
from zenith_mlir.onnx.divergence import first_divergence
from zenith_mlir.onnx.options import Options
from zenith_mlir.onnx.program import Program
from zenith_mlir.onnx.report import Validation
from zenith_mlir.onnx.run import Session
from zenith_mlir.onnx.source import Source, trace_model
from zenith_mlir.onnx.source.reference import as_taken

if TYPE_CHECKING:
    from zenith_mlir.onnx.export import OnnxExport

__all__ = ["validate_onnx"]


def validate_onnx(
    model: OnnxExport | bytes | str | os.PathLike[str] | Any,
    fn: Callable[..., Any],
    samples: Sequence[Any],
    tolerance: float | None = None,
    *,
    params: Any = None,
) -> Validation:
    """Run `model` on onnxruntime and `fn` under jax.jit, and compare every output.

    Args:
      model: what `export_onnx` returned, a path, the bytes of a file, or an onnx.ModelProto.
      fn: the function or model that was exported, called as `export_onnx` was told to.
      samples: tuples of arguments; their arrays are the inputs of the model in order.
      tolerance: largest difference, relative to the largest magnitude of an output; by default 1e-4 in float32,
        1e-9 in float64, 1e-2 in float16, 6e-2 in bfloat16, and none for integers; that of `precision` for all outputs
        of an export with one.
      params: as for `export_onnx`.

    Returns: the differences of each output, the worst over the samples; where one is beyond the tolerance, and the
    conversion of `fn` shows it as well, `first` names the operation where it begins.

    Raises:
        ZenithError: for samples that do not fit the model, or a model that onnxruntime does not run.
    """
    from zenith_mlir.onnx.export import OnnxExport

    samples = [sample if isinstance(sample, tuple) else (sample,) for sample in samples]
    if not samples:
        raise ZenithError("samples is empty; give at least one tuple of arguments")
    options = model.options if isinstance(model, OnnxExport) else Options()
    source = trace_model(fn, samples[0], params=params)
    session = Session(_file(model))
    flat = [jax.tree.leaves(sample) for sample in samples]
    takes_weights = len(session.inputs) == len(flat[0]) + len(source.parameters)
    given = [each.numpy() for each in source.parameters] if takes_weights else []
    computed = _prepared(source, options).module
    rows = []
    for sample in flat:
        arrays = stored(options.layouts, session.inputs[len(given) :], [as_taken(each) for each in sample])
        found = session([*given, *arrays])
        rows.append(compare_results(options.layouts, session.outputs, source.reference(sample), found))
    validation = Validation(worst_of(rows), len(rows), tolerance, narrowest=narrowest_float(computed.operation))
    if validation.ok:
        return validation
    apart = next(i for i, row in enumerate(rows) if not replace(validation, outputs=tuple(row)).ok)
    if apart:  # its sizes may be others
        source = trace_model(fn, samples[apart], params=params)
    arrays = [as_taken(each) for each in flat[apart]]
    if options.weights == "input":
        arrays = [*(each.numpy() for each in source.parameters), *arrays]
    return replace(validation, first=first_divergence(_prepared(source, options), options, arrays, tolerance))


def _prepared(source: Source, options: Options) -> Prepared:
    return prepare(Program.of_source(source), replace(options, layouts={}))


def _file(model: Any) -> bytes | str | os.PathLike[str]:
    from zenith_mlir.onnx.export import OnnxExport

    if isinstance(model, OnnxExport):
        return model.path if model.path is not None else model.model_bytes
    if isinstance(model, bytes | str | os.PathLike):
        return model
    if hasattr(model, "SerializeToString"):
        return bytes(model.SerializeToString())
    raise ZenithError(f"a model is an OnnxExport, a path, bytes or an onnx.ModelProto, not a {type(model).__name__}")
