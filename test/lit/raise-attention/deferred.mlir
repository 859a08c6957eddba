// RUN: zenith-opt %s --pass-pipeline=prepare,raise-attention | filecheck %s

// The division by the sum comes after the product with the values: the composite's result is the quotient.
// CHECK-LABEL: func.func public @main
// CHECK: %[[OUT:.*]] = stablehlo.composite "zenith.attention" %{{.*}}, %{{.*}}, %{{.*}} {composite_attributes = {
// CHECK-SAME: out = "b t e"
// CHECK: return %[[OUT]]
// CHECK-NOT: stablehlo.divide
// CHECK-LABEL: func.func private @zenith_attention
// CHECK: stablehlo.dot_general
// CHECK: stablehlo.exponential
// CHECK: stablehlo.dot_general
// CHECK: stablehlo.divide
func.func public @main(%q: tensor<4x16x8xf32>, %k: tensor<4x12x8xf32>, %v: tensor<4x12x6xf32>) -> tensor<4x16x6xf32> {
  %zero = stablehlo.constant dense<0.0> : tensor<f32>
  %inf = stablehlo.constant dense<0xFF800000> : tensor<f32>
  %0 = stablehlo.dot_general %q, %k, batching_dims = [0] x [0], contracting_dims = [2] x [2] : (tensor<4x16x8xf32>, tensor<4x12x8xf32>) -> tensor<4x16x12xf32>
  %m = stablehlo.reduce(%0 init: %inf) applies stablehlo.maximum across dimensions = [2] : (tensor<4x16x12xf32>, tensor<f32>) -> tensor<4x16xf32>
  %b = stablehlo.broadcast_in_dim %m, dims = [0, 1] : (tensor<4x16xf32>) -> tensor<4x16x12xf32>
  %d = stablehlo.subtract %0, %b : tensor<4x16x12xf32>
  %1 = stablehlo.exponential %d : tensor<4x16x12xf32>
  %2 = stablehlo.reduce(%1 init: %zero) applies stablehlo.add across dimensions = [2] : (tensor<4x16x12xf32>, tensor<f32>) -> tensor<4x16xf32>
  %3 = stablehlo.dot_general %1, %v, batching_dims = [0] x [0], contracting_dims = [2] x [1] : (tensor<4x16x12xf32>, tensor<4x12x6xf32>) -> tensor<4x16x6xf32>
  %4 = stablehlo.broadcast_in_dim %2, dims = [0, 1] : (tensor<4x16xf32>) -> tensor<4x16x6xf32>
  %5 = stablehlo.divide %3, %4 : tensor<4x16x6xf32>
  return %5 : tensor<4x16x6xf32>
}
