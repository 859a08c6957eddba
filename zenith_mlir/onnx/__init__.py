"""From JAX to ONNX."""
