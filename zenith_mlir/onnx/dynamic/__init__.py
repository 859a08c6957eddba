"""Programs with symbolic dimensions, made static at sizes that stand for the symbols."""

from zenith_mlir.onnx.dynamic.expr import Expr
from zenith_mlir.onnx.dynamic.specialize import Specialized, specialize

__all__ = ["Expr", "Specialized", "specialize"]
