"""LAPACK's factorisations, which ONNX has no operators for, as plain programs that take the place of the calls."""

from zenith_mlir.onnx.linalg.expand import expand_linalg

__all__ = ["expand_linalg"]
