// RUN: zenith-opt %s --split-input-file --pass canonicalize | filecheck %s
// RUN: zenith-opt %s --split-input-file --print-debuginfo | filecheck %s --check-prefix=LINES

// CHECK: func.func @first
// CHECK: // -----
// CHECK: func.func @second

// LINES: loc("{{.*}}split.mlir":12:
// LINES: loc("{{.*}}split.mlir":18:
func.func @first(%x: tensor<4xf32>) -> tensor<4xf32> {
  %0 = stablehlo.sine %x : tensor<4xf32>
  return %0 : tensor<4xf32>
}

// -----

func.func @second(%x: tensor<4xf32>) -> tensor<4xf32> {
  return %x : tensor<4xf32>
}
