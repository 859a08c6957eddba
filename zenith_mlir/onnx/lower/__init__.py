"""Lowering functions by family; `zenith_mlir.onnx.table` has them all."""
