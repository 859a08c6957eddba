// RUN: zenith-translate --to-onnx %s -o %t.onnx --validate --report 2>&1 | filecheck %s
// RUN: not zenith-translate --to-onnx %s 2>&1 | filecheck %s --check-prefix=NOWHERE
// RUN: not zenith-translate %s --opset 20 2>&1 | filecheck %s --check-prefix=ALONE
// RUN: not zenith-translate --to-onnx %s -o %t.onnx --opset 9 2>&1 | filecheck %s --check-prefix=OPSET
// RUN: not zenith-translate --to-onnx %s -o %t.onnx --params %s 2>&1 | filecheck %s --check-prefix=PARAMS

// A symbolic dimension has the name of its place; what is used once keeps its constant out of the graph's inputs.

// CHECK: opset 23, 3 nodes: 1 Add, 1 MatMul, 1 Tanh
// CHECK: inputs: w: float[3, 4], x: float[arg1_dim0, 3]
// CHECK: outputs: output_0: float[arg1_dim0, 4]
// CHECK: beside JAX, 1 sample:
// CHECK: output_0 float32

// NOWHERE: error: an ONNX model is written to a file; name it with -o model.onnx
// ALONE: error: --opset belongs to --to-onnx
// OPSET: error: opset 9 cannot be written; there are 17 to 24
// PARAMS: is no file of arrays by name, as numpy.savez writes it
func.func @main(%w: tensor<3x4xf32> loc("w"), %x: tensor<?x3xf32> loc("x")) -> tensor<?x4xf32> {
  %c = stablehlo.constant dense<5.000000e-01> : tensor<3x4xf32>
  %0 = stablehlo.add %w, %c : tensor<3x4xf32>
  %1 = stablehlo.dot_general %x, %0, contracting_dims = [1] x [0] : (tensor<?x3xf32>, tensor<3x4xf32>) -> tensor<?x4xf32>
  %2 = stablehlo.tanh %1 : tensor<?x4xf32>
  return %2 : tensor<?x4xf32>
}
