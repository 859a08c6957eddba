"""JAX programs as ONNX models.

`export_onnx` takes a function or a model of a library (`source/`), makes sizes with names static (`dynamic/`), runs
passes, and walks the module once: values are views of ONNX values (`view.py`), operations are converted by small
functions in tables (`lower/`, `fused/`, `table.py`).

Every name is imported when first used: `import zenith_mlir.onnx` loads neither jax nor onnx.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from zenith_mlir.lazily import attributes
from zenith_mlir.optional import need

if TYPE_CHECKING:
    from zenith_mlir.onnx.export import OnnxExport as OnnxExport
    from zenith_mlir.onnx.export import OnnxMismatch as OnnxMismatch
    from zenith_mlir.onnx.export import export_module as export_module
    from zenith_mlir.onnx.export import export_onnx as export_onnx
    from zenith_mlir.onnx.model import Unconvertible as Unconvertible
    from zenith_mlir.onnx.options import Options as Options
    from zenith_mlir.onnx.quantize import quantize_onnx as quantize_onnx
    from zenith_mlir.onnx.validate import validate_onnx as validate_onnx

_HOMES = {
    "OnnxExport": "export",
    "Options": "options",
    "OnnxMismatch": "export",
    "Unconvertible": "model",
    "export_module": "export",
    "export_onnx": "export",
    "quantize_onnx": "quantize",
    "validate_onnx": "validate",
}

__all__ = list(_HOMES)

_find = attributes(__name__, _HOMES)


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        need("onnx_ir", "onnx")
    return _find(name)
