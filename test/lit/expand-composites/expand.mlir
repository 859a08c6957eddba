// RUN: zenith-opt %s --pass expand-composites | filecheck %s

// zenith.* composites are inlined; those of others stay.
// CHECK-LABEL: func.func public @main
// CHECK-NEXT: stablehlo.add %arg0, %arg0
// CHECK-NEXT: stablehlo.composite "other.op"
// CHECK-NOT: @zenith_gelu
func.func public @main(%x: tensor<4xf32>) -> tensor<4xf32> {
  %0 = stablehlo.composite "zenith.gelu" %x {decomposition = @zenith_gelu} : (tensor<4xf32>) -> tensor<4xf32>
  %1 = stablehlo.composite "other.op" %0 {decomposition = @other} : (tensor<4xf32>) -> tensor<4xf32>
  return %1 : tensor<4xf32>
}

func.func private @zenith_gelu(%x: tensor<4xf32>) -> tensor<4xf32> {
  %0 = stablehlo.add %x, %x : tensor<4xf32>
  return %0 : tensor<4xf32>
}

func.func private @other(%x: tensor<4xf32>) -> tensor<4xf32> {
  return %x : tensor<4xf32>
}
