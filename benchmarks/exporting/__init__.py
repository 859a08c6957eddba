"""What the benches of the ONNX exporter have in common: benchmarks/onnx_*.py."""
