// RUN: zenith-opt %s --pass inline-calls | filecheck %s

// Nested private functions are inlined, innermost first, and dropped.
// CHECK-LABEL: func.func public @main
// CHECK-NEXT: stablehlo.add
// CHECK-NEXT: stablehlo.multiply
// CHECK-NEXT: return
// CHECK-NOT: func.func private @outer
func.func public @main(%x: tensor<4xf32>) -> tensor<4xf32> {
  %0 = func.call @outer(%x) : (tensor<4xf32>) -> tensor<4xf32>
  return %0 : tensor<4xf32>
}

func.func private @outer(%x: tensor<4xf32>) -> tensor<4xf32> {
  %0 = func.call @inner(%x) : (tensor<4xf32>) -> tensor<4xf32>
  %1 = stablehlo.multiply %0, %x : tensor<4xf32>
  return %1 : tensor<4xf32>
}

func.func private @inner(%x: tensor<4xf32>) -> tensor<4xf32> {
  %0 = stablehlo.add %x, %x : tensor<4xf32>
  return %0 : tensor<4xf32>
}
