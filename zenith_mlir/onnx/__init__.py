"""ONNX files from StableHLO modules."""
