"""zenith_mlir: make JAX programs faster and smaller without touching their source.

Every name is imported when first used: `import zenith_mlir` loads neither jax nor jaxlib.
"""

from __future__ import annotations

import importlib
import os
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

# As jax does before it loads jaxlib; here jaxlib may come first, and XLA would announce its devices.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "1")

if TYPE_CHECKING:
    from zenith_mlir.context import PassContext as PassContext
    from zenith_mlir.errors import PassError as PassError
    from zenith_mlir.errors import PipelineError as PipelineError
    from zenith_mlir.errors import ZenithError as ZenithError
    from zenith_mlir.hook import jit as jit
    from zenith_mlir.hook import pipeline as pipeline
    from zenith_mlir.hook import set_pipeline as set_pipeline
    from zenith_mlir.module import Module as Module
    from zenith_mlir.module import load as load
    from zenith_mlir.module import trace as trace
    from zenith_mlir.onnx.export import OnnxExport as OnnxExport
    from zenith_mlir.onnx.export import export_onnx as export_onnx
    from zenith_mlir.onnx.validate import validate_onnx as validate_onnx
    from zenith_mlir.registry import Pass as Pass
    from zenith_mlir.registry import option as option
    from zenith_mlir.registry import register as register
    from zenith_mlir.remarks import Remark as Remark
    from zenith_mlir.remat.checkpoint import checkpoint as checkpoint
    from zenith_mlir.remat.sequential import checkpoint_sequential as checkpoint_sequential
    from zenith_mlir.rewriting import ZenithWarning as ZenithWarning
    from zenith_mlir.target import Target as Target

_HOMES = {
    "Module": "module",
    "OnnxExport": "onnx",
    "Pass": "registry",
    "PassContext": "context",
    "PassError": "errors",
    "PipelineError": "errors",
    "Remark": "remarks",
    "Target": "target",
    "ZenithError": "errors",
    "ZenithWarning": "rewriting",
    "checkpoint": "remat.checkpoint",
    "checkpoint_sequential": "remat.sequential",
    "export_onnx": "onnx",
    "jit": "hook",
    "load": "module",
    "option": "registry",
    "register": "registry",
    "set_pipeline": "hook",
    "trace": "module",
    "validate_onnx": "onnx",
}
# `pipeline` is a module that can be called: `zenith.pipeline("default")` and `zenith_mlir.pipeline.Pipeline`
# are both it.
_SUBMODULES = ("certify", "memory", "onnx", "ops", "pipeline", "precision")

__all__ = [*_HOMES, *_SUBMODULES]


def __getattr__(name: str) -> Any:
    if name in _SUBMODULES:
        return importlib.import_module(f"zenith_mlir.{name}")
    if name in _HOMES:
        value = getattr(importlib.import_module(f"zenith_mlir.{_HOMES[name]}"), name)
        globals()[name] = value
        return value
    raise AttributeError(f"module 'zenith_mlir' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
