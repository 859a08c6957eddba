"""export_onnx: from a function or model to a file, checked before it takes its place."""

from __future__ import annotations

import os
import tempfile
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import onnx_ir as oir

from zenith_mlir.errors import ZenithError
from zenith_mlir.module import Module
from zenith_mlir.onnx.check import Check, ModuleCheck
from zenith_mlir.onnx.conversion import Converted, convert
from zenith_mlir.onnx.half import with_precision
from zenith_mlir.onnx.options import Fused, Options, Placement
from zenith_mlir.onnx.peer import convert_with_peer
from zenith_mlir.onnx.program import Program
from zenith_mlir.onnx.progress import Steps
from zenith_mlir.onnx.report import ExportReport, Validation
from zenith_mlir.onnx.writing import beside, weight_bytes, write

__all__ = ["OnnxExport", "OnnxMismatch", "export_module", "export_onnx"]


class OnnxMismatch(ZenithError):
    """A converted model that does not compute what JAX does; nothing was written. `validation` has the numbers."""

    def __init__(self, validation: Validation):
        super().__init__(
            "the model does not compute what JAX does, and was not written (validate=False writes it anyway, "
            f"tolerance=... allows more):\n{validation}"
        )
        self.validation = validation


@dataclass(frozen=True)
class OnnxExport:
    """A model that was written. `path` is None where it was only made."""

    path: Path | None
    report: ExportReport
    options: Options = field(default_factory=Options)
    model: oir.Model | None = field(default=None, repr=False)

    @property
    def model_bytes(self) -> bytes:
        """The file. With weights="external", without them."""
        if self.path is not None:
            return self.path.read_bytes()
        assert self.model is not None
        return bytes(oir.to_proto(self.model).SerializeToString())

    def __str__(self) -> str:
        return f"{self.path or 'not written'}\n{self.report}"


def export_onnx(
    fn: Any,
    args: Sequence[Any],
    path: str | os.PathLike[str] | None = None,
    *,
    params: Any = None,
    kwargs: Mapping[str, Any] | None = None,
    opset: int = 23,
    weights: Placement = "initializer",
    dynamic: Any = None,
    dynamic_constraints: Sequence[str] = (),
    input_names: Sequence[str] | None = None,
    output_names: Sequence[str] | None = None,
    layouts: Mapping[str, str] | None = None,
    precision: Literal["f16", "bf16"] | None = None,
    metadata: Mapping[str, str] | None = None,
    passes: str = "default",
    fused: Fused = "measured",
    microsoft: bool = False,
    validate: bool = True,
    tolerance: float | None = None,
    progress: bool | None = None,
    backend: Literal["zenith", "jax2onnx"] = "zenith",
) -> OnnxExport:
    """Write a JAX function or model as an ONNX model.

    ```python
    zenith.export_onnx(model, (tokens,), "model.onnx", dynamic={"tokens": "batch, seq"})
    ```

    Args:
      fn: a function of arrays or pytrees; a Linen module or Haiku transform with its `params`; a module of NNX or
        Equinox, a Keras model on JAX, a Flax model of Transformers; anything that `jax.jit` takes. Arrays that it
        closes over are weights.
      args: arguments to trace it with, arrays or `jax.ShapeDtypeStruct`s; a tuple. Every array is an input.
      path: the file; None only makes the model.
      params: `fn(params, *args)` is called, and the arrays of `params` are weights.
      opset, weights, layouts, metadata, passes, fused, microsoft: as in `zenith_mlir.onnx.options.Options`.
      dynamic: which sizes are symbols, by the name of the input or index of the argument: `{"tokens": "batch, seq"}`,
        `{0: {0: "batch"}}`. Inputs share symbols. `dynamic_constraints` says what is known of them, `("seq >= 2",)`.
      input_names, output_names: instead of those of the signature and the pytree.
      precision: compute in 16 bits and store weights so, with sums in 32 (`cast-precision`).
      validate: run the model on onnxruntime beside JAX before it is put in its place, on `args` or on random numbers
        where these have only shapes.
      tolerance: of that comparison, relative to the largest magnitude of an output; by default by type, or `precision`.
      progress: a progress bar on standard error; by default on a terminal, for exports that take long.
      backend: "jax2onnx" hands the function to that library.

    Returns: an `OnnxExport` with `model_bytes` and `report`.

    Raises:
        Unconvertible: with everything that ONNX has no form of, at once, by the user's lines. Nothing is written.
        OnnxMismatch: if the model does not compute what JAX does. Nothing is written.
        ZenithError: for arguments that do not fit, and files that cannot be written.
    """
    from zenith_mlir.onnx.source import trace_model

    if backend not in ("zenith", "jax2onnx"):
        raise ZenithError(f"backend={backend!r}: it is 'zenith' or 'jax2onnx'")
    if tolerance is not None and not (isinstance(tolerance, int | float) and tolerance >= 0):
        raise ZenithError(f"tolerance={tolerance!r}: it is a number of at least 0, or None for that of the type")
    passes = with_precision("onnx" if passes == "default" else passes, precision)
    options = Options(opset, weights, passes, metadata or {}, layouts or {}, fused, microsoft)
    with Steps(progress) as step:
        step("tracing")
        source = trace_model(
            fn,
            args,
            params=params,
            kwargs=kwargs,
            dynamic=dynamic,
            dynamic_constraints=dynamic_constraints,
            input_names=input_names,
            output_names=output_names,
        )
        if backend == "jax2onnx":
            step("converting with jax2onnx")
            converted = Converted(convert_with_peer(fn, args, params, options))
        else:
            converted = convert(Program.of_source(source), options, step)
        check = Check(source, options, tolerance) if validate and source.reference.has_values else None
        if validate and check is None:
            note = "not compared with JAX: the weights are shapes only"
            converted = replace(converted, notes=(*converted.notes, note))
        return _finish(converted, path, options, step, check)


def export_module(
    module: Module,
    path: str | os.PathLike[str] | None,
    options: Options,
    params: Any = None,
    named: Mapping[str, Any] | None = None,
    validate: bool = False,
) -> OnnxExport:
    """Write a module as it is. `params` is a pytree of arrays, whose leaves are the first arguments of main; `named`
    are arrays by the names of arguments.

    Raises:
        Unconvertible, OnnxMismatch, ZenithError: as `export_onnx`.
    """
    with Steps(False) as step:
        program = Program.of_module(module, params, named)
        check = ModuleCheck(program, options) if validate else None
        return _finish(convert(program, options, step), path, options, step, check)


def _finish(
    converted: Converted,
    path: str | os.PathLike[str] | None,
    options: Options,
    step: Steps,
    check: Check | ModuleCheck | None,
) -> OnnxExport:
    """Write the files, compare, and only then put them where they belong."""
    if path is None:
        if options.weights == "external":
            raise ZenithError('weights="external" needs a path, beside which the file of the weights is written')
        with tempfile.TemporaryDirectory() as folder:
            validation = _written(converted, Path(folder) / "model.onnx", options, step, check)
        return OnnxExport(None, _report(converted, options, step, validation), options, converted.model)
    target = Path(path)
    with beside(target) as place:
        validation = _written(converted, place, options, step, check)
    return OnnxExport(target, _report(converted, options, step, validation), options)


def _written(
    converted: Converted, place: Path, options: Options, step: Steps, check: Check | ModuleCheck | None
) -> Validation | None:
    step("writing")
    write(converted.model, place, options.weights)
    if check is None:
        return None
    step("validating")
    validation = replace(check(place), narrowest=converted.narrowest)
    if not validation.ok:
        raise OnnxMismatch(validation)
    return validation


def _report(converted: Converted, options: Options, step: Steps, validation: Validation | None) -> ExportReport:
    model = converted.model
    tensors = [value.const_value for value in model.graph.initializers.values()]
    return ExportReport(
        options.opset,
        Counter(node.op_type for node in model.graph.all_nodes()),
        converted.fused,
        [_described(value) for value in model.graph.inputs],
        [_described(value) for value in model.graph.outputs],
        sum(tensor.size for tensor in tensors if tensor is not None),
        weight_bytes(model),
        step.seconds,
        converted.notes,
        validation,
    )


def _described(value: oir.Value) -> str:
    dtype = value.dtype.name.lower() if value.dtype else "?"
    return f"{value.name}: {dtype}[{', '.join(map(str, value.shape or ()))}]"
