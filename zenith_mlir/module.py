"""Module: a StableHLO program that can be read, rewritten by a pipeline, compiled and written."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, Literal

from jaxlib.mlir import ir

from zenith_mlir.context import Numerics, PassContext
from zenith_mlir.ir import serialize
from zenith_mlir.ir.context import make_context
from zenith_mlir.pipeline import Pipeline
from zenith_mlir.remarks import Remark
from zenith_mlir.target import Target

if TYPE_CHECKING:
    from zenith_mlir.ir.executable import Executable
    from zenith_mlir.ir.signature import InputSpec
    from zenith_mlir.onnx.export import OnnxExport

__all__ = ["Module", "load", "trace"]


class Module:
    """A StableHLO module. Nothing here changes it but a pass handed this object; `run` works on a copy."""

    def __init__(self, ir_module: ir.Module, remarks: Iterable[Remark] = (), lock: threading.RLock | None = None):
        self.ir = ir_module
        self.remarks = list(remarks)
        # Modules of one MLIR context share its diagnostics: their runs take turns.
        self._lock = lock or threading.RLock()

    @classmethod
    def parse(cls, source: str | bytes, name: str = "<string>") -> Module:
        """A module from text, bytecode, a portable artifact or what `jax.export` serializes.

        `name` stands for the file in messages and in the locations of text without its own.

        Raises:
            ReadError: if `source` is none of these; the message starts with `name:line:col` where there is
            one.
        """
        return cls(serialize.read(source, make_context(), name))

    @property
    def operation(self) -> ir.Operation:
        return self.ir.operation

    @property
    def body(self) -> ir.Block:
        return self.ir.body

    @property
    def context(self) -> ir.Context:
        return self.ir.context

    def text(self, debug_info: bool = False) -> str:
        """The module as MLIR text, with source locations if `debug_info`."""
        return serialize.text(self.ir, debug_info)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write MLIR text (`.mlir`) or bytecode (`.mlirbc`), both with source locations, whole or not at
        all.
        """
        serialize.save(self.ir, path)

    def clone(self) -> Module:
        """A copy in the same MLIR context, without remarks."""
        return Module(serialize.clone(self.ir), lock=self._lock)

    def run(
        self,
        pipeline: str | Pipeline = "default",
        target: str | Target | None = None,
        numerics: Numerics = "sound",
        **instrument: Any,
    ) -> Module:
        """A new module, rewritten by `pipeline`, with the remarks of its passes.

        `target` is this machine unless given; `instrument` are the fields of
        `zenith_mlir.instrument.Instrument`.

        Raises:
            PipelineError: for a pipeline that does not parse.
            PassError: when a pass fails. This module is as it was in either case.
        """
        from zenith_mlir.instrument import Instrument

        parsed = Pipeline.parse(pipeline)
        ctx = PassContext(Target.host() if target is None else Target.parse(target), numerics)
        with self._lock:
            result = self.clone()
            watch = Instrument(**instrument)
            parsed.run(result, ctx, watch)
        watch.report()
        result.remarks = [*self.remarks, *ctx.remarks]
        return result

    @property
    def input_specs(self) -> list[InputSpec]:
        """The arguments of `main`: shape (None for a dynamic dimension), NumPy dtype and name of each."""
        from zenith_mlir.ir.signature import input_specs

        return input_specs(self.ir)

    def compile(self, target: str | Target | None = None) -> Executable:
        """A callable from positional arrays, in the order of `main`'s arguments, to a tuple of jax.Arrays."""
        from zenith_mlir.ir.executable import compile_module

        return compile_module(self, target)

    def to_onnx(
        self,
        path: str | os.PathLike[str] | None = None,
        *,
        params: Any = None,
        weights: Literal["initializer", "external", "input"] = "initializer",
        opset: int = 23,
        passes: str = "default",
        validate: bool = False,
        **options: Any,
    ) -> OnnxExport:
        """Write the module as an ONNX model; its arguments become inputs.

        Args:
          path: the file; None only makes the model.
          params: a pytree of arrays, whose leaves are the first arguments of `main` and become weights.
          weights, opset, passes: as in `zenith_mlir.onnx.options.Options`, of which `options` are the other fields.
          validate: run the model on onnxruntime beside XLA, on random inputs, before it is put in its place.

        Raises:
            Unconvertible: with everything that ONNX has no form of, at once. Nothing is written.
            ZenithError: for what else does not go; `zenith_mlir.onnx.export_onnx` says more.
        """
        from zenith_mlir.onnx import Options, export_module

        chosen = Options(opset=opset, weights=weights, passes=passes, **options)
        return export_module(self, path, chosen, params, validate=validate)

    def __str__(self) -> str:
        return self.text()


def load(source: str | bytes | os.PathLike[str]) -> Module:
    """A module from a path, from MLIR text, or from bytes (text, bytecode, portable artifact, serialized
    jax.export).

    A string is text if it has a line break or a brace, else a path.

    Raises:
        ReadError: if it cannot be read; the message starts with the place where there is one.
    """
    if isinstance(source, bytes | bytearray | memoryview):
        return Module.parse(bytes(source), "<bytes>")
    if isinstance(source, str) and ("\n" in source or "{" in source):
        return Module.parse(source)
    path = os.fspath(source)
    return Module.parse(serialize.read_file(path), path)


def trace(fn: Callable[..., Any], *args: Any, **kwargs: Any) -> Module:
    """The module of a JAX function for arguments like these (arrays or `jax.ShapeDtypeStruct`, also of symbolic
    dimensions), with source locations.

    Its `main` takes every array of the arguments, used or not. `fn` may be jitted already: its static arguments are
    then respected, and arguments that it does not use are dropped as jax.jit drops them.
    """
    import jax

    from zenith_mlir.ir.dimensions import state_dimensions

    jitted = fn if hasattr(fn, "lower") else jax.jit(fn, keep_unused=True)
    lowered = jitted.lower(*args, **kwargs)
    module = lowered.compiler_ir("stablehlo")
    state_dimensions(module, jax.tree.leaves(lowered.in_avals))
    return Module(module)
