"""JAX programs as ONNX models."""
