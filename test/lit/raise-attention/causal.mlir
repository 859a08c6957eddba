// RUN: zenith-opt %s --pass-pipeline=prepare,raise-attention --remarks=all 2>&1 | filecheck %s

// CHECK: causal.mlir:{{[0-9]+}}:{{[0-9]+}}: remark: [passed] raise-attention: zenith.attention
// CHECK: stablehlo.composite "zenith.attention" %arg0, %arg1, %arg2
// CHECK-SAME: causal = true
// CHECK-SAME: k = "b s h d"
// CHECK-SAME: out = "b t h e"
// CHECK-SAME: q = "b t h d"
// CHECK-SAME: kind = "scale", value = 1.250000e-01
// CHECK-SAME: high = 0 : i64, kind = "band"
// CHECK-SAME: v = "b s h e"
// CHECK-SAME: decomposition = @zenith_attention
// The decomposition is the original code.
// CHECK: func.func private @zenith_attention
// CHECK: stablehlo.dot_general
// CHECK: stablehlo.exponential
// CHECK: stablehlo.dot_general
func.func public @main(%q: tensor<2x16x4x64xf32>, %k: tensor<2x16x4x64xf32>, %v: tensor<2x16x4x64xf32>) -> tensor<2x16x4x64xf32> {
  %scale = stablehlo.constant dense<0.125> : tensor<2x4x16x16xf32>
  %fill = stablehlo.constant dense<-1.0e+30> : tensor<2x4x16x16xf32>
  %inf = stablehlo.constant dense<0xFF800000> : tensor<f32>
  %zero = stablehlo.constant dense<0.0> : tensor<f32>
  %0 = stablehlo.dot_general %q, %k, batching_dims = [0, 2] x [0, 2], contracting_dims = [3] x [3] : (tensor<2x16x4x64xf32>, tensor<2x16x4x64xf32>) -> tensor<2x4x16x16xf32>
  %1 = stablehlo.multiply %0, %scale : tensor<2x4x16x16xf32>
  %rows = stablehlo.iota dim = 0 : tensor<16x16xi32>
  %columns = stablehlo.iota dim = 1 : tensor<16x16xi32>
  %m = stablehlo.compare GE, %rows, %columns, SIGNED : (tensor<16x16xi32>, tensor<16x16xi32>) -> tensor<16x16xi1>
  %mask = stablehlo.broadcast_in_dim %m, dims = [2, 3] : (tensor<16x16xi1>) -> tensor<2x4x16x16xi1>
  %2 = stablehlo.select %mask, %1, %fill : tensor<2x4x16x16xi1>, tensor<2x4x16x16xf32>
  %3 = stablehlo.reduce(%2 init: %inf) applies stablehlo.maximum across dimensions = [3] : (tensor<2x4x16x16xf32>, tensor<f32>) -> tensor<2x4x16xf32>
  %4 = stablehlo.broadcast_in_dim %3, dims = [0, 1, 2] : (tensor<2x4x16xf32>) -> tensor<2x4x16x16xf32>
  %5 = stablehlo.subtract %2, %4 : tensor<2x4x16x16xf32>
  %6 = stablehlo.exponential %5 : tensor<2x4x16x16xf32>
  %7 = stablehlo.reduce(%6 init: %zero) applies stablehlo.add across dimensions = [3] : (tensor<2x4x16x16xf32>, tensor<f32>) -> tensor<2x4x16xf32>
  %8 = stablehlo.broadcast_in_dim %7, dims = [0, 1, 2] : (tensor<2x4x16xf32>) -> tensor<2x4x16x16xf32>
  %9 = stablehlo.divide %6, %8 : tensor<2x4x16x16xf32>
  // The values stand on the left; two transposes bring the result home.
  %10 = stablehlo.dot_general %v, %9, batching_dims = [0, 2] x [0, 1], contracting_dims = [1] x [3] : (tensor<2x16x4x64xf32>, tensor<2x4x16x16xf32>) -> tensor<2x4x64x16xf32>
  %11 = stablehlo.transpose %10, dims = [0, 3, 1, 2] : (tensor<2x4x64x16xf32>) -> tensor<2x16x4x64xf32>
  return %11 : tensor<2x16x4x64xf32>
}
