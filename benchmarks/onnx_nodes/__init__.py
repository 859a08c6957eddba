"""What ONNX's operators mean, as functions of JAX, against the backend tests that the onnx package carries."""
